//! Graphs: made by capture, instantiated, replayed in the order of capture.

use std::{
    ffi::{c_uint, c_ulonglong},
    sync::Arc,
};

use crate::{
    driver::{Graph, in_context},
    ffi::Out,
    handles::Handle,
    queue::{Goal, Item, drain},
    status::Status,
};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_*`: auto free, upload, device launch, node priority.
const KNOWN_FLAGS: c_ulonglong = 0b1111;
const FLAG_AUTO_FREE: c_ulonglong = 1;
const FLAG_DEVICE_LAUNCH: c_ulonglong = 4;

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(
    executable: Out<Handle>,
    graph: Handle,
    flags: c_ulonglong,
) -> Status {
    in_context(|driver| {
        let both = FLAG_AUTO_FREE | FLAG_DEVICE_LAUNCH;
        if flags & !KNOWN_FLAGS != 0 || flags & both == both {
            return Err(Status::InvalidValue);
        }
        if flags & FLAG_DEVICE_LAUNCH != 0 {
            return Err(driver.unsupported("cuGraphInstantiate for launches from the device"));
        }
        let nodes = Arc::clone(&driver.graphs.get(graph)?.nodes);
        executable.set(driver.executables.add(nodes))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> Status {
    in_context(|driver| driver.executables.remove(executable).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> Status {
    in_context(|driver| driver.graphs.remove(graph).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> Status {
    in_context(|driver| {
        driver.executables.get(executable)?;
        driver.streams.get(stream).map(|_| ())
    })
}

/// Into a capturing stream the graph's nodes go one by one, where a driver would make a child graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> Status {
    let mut goal = None;
    let status = in_context(|driver| {
        driver.streams.get(stream)?;
        let nodes = Arc::clone(driver.executables.get(executable)?);
        driver.report.graph_launches += 1;
        for node in nodes.iter() {
            if let Some(work) = driver.route(stream, node.clone())? {
                let work = driver.admit(work)?;
                let ticket = driver.push(stream, Item::Work(work, true))?;
                goal = (!driver.settings.late).then_some(Goal::Place(ticket));
            }
        }
        Ok(())
    });
    if let Some(goal) = goal {
        drain(goal);
    }
    status
}

/// With a null array the number of nodes; otherwise as many handles as there is room for.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) -> Status {
    in_context(|driver| {
        let Graph {
            nodes: work,
            node_handles,
        } = driver.graphs.get_mut(graph)?;
        if nodes.is_null() {
            return count.set(work.len());
        }
        // A node's handle is the graph's with the position added: cuGraphNodeGetType finds both again.
        if node_handles.is_empty() {
            node_handles.extend((0..work.len()).map(|position| graph.node(position)));
        }
        let room = count.get()?.min(work.len());
        nodes.set_all(node_handles[..room].iter().copied())?;
        count.set(room)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetType(node: Handle, node_type: Out<c_uint>) -> Status {
    in_context(|driver| {
        let found = driver.graphs.iter().find_map(|(_, graph)| {
            let position = graph
                .node_handles
                .iter()
                .position(|handle| *handle == node)?;
            graph.nodes.get(position)
        });
        node_type.set(found.ok_or(Status::InvalidHandle)?.node_type())
    })
}
