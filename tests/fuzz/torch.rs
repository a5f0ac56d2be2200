//! Published PyTorch checkpoints: the archive, the pickle in it, the form before it, and what is made of the values.

use std::path::Path;

use vaebm::checkpoint::torch::{Value, config_from_args, read};
use vaebm::official::import;

use super::harness::{Target, fuzz};
use super::{BASE, form, place, refused, seed};

/// A pickle of protocol 2.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X")
            .raw(&(text.len() as u32).to_le_bytes())
            .raw(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    /// `class(*args)` comes after this, a tuple, and `R`.
    fn class(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A float tensor of storage `key`.
    fn tensor(self, key: &str, count: i32, shape: [i32; 2]) -> Self {
        self.class("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .class("torch", "FloatStorage")
            .text(key)
            .text("cuda:0")
            .int(count)
            .raw(b"tQK\0(")
            .int(shape[0])
            .int(shape[1])
            .raw(b"t(")
            .int(shape[1])
            .int(1)
            .raw(b"t\x89")
            .class("collections", "OrderedDict")
            .raw(b")RtR")
    }

    /// What stage 1 saves, with a state dictionary of two tensors; `q` and `h` note and recall.
    fn stage1(self) -> Self {
        let mut args = self
            .raw(b"\x80\x02}q\0(")
            .text("epoch")
            .int(3)
            .text("global_step")
            .raw(b"\x8a\x02\x10\x27")
            .text("state_dict")
            .class("collections", "OrderedDict")
            .raw(b")Rq\x01(")
            .text("stem.weight")
            .tensor("0", 6, [2, 3])
            .text("stem.bias")
            .tensor("1", 2, [1, 2])
            .raw(b"u")
            .text("optimizer")
            .raw(b"}(")
            .text("state")
            .raw(b"}J\0\0\0\0}")
            .text("exp_avg")
            .tensor("0", 6, [2, 3])
            .raw(b"ss")
            .text("param_groups")
            .raw(b"]}")
            .text("params")
            .raw(b"](K\0K\x01eq\x02sau")
            .text("args")
            .class("argparse", "Namespace")
            .raw(b")\x81}(")
            .text("dataset")
            .text("cifar10")
            .text("use_se")
            .raw(b"\x88")
            .text("res_dist")
            .raw(b"\x88")
            .text("learning_rate")
            .raw(b"G\x3f\x84\x7a\xe1\x47\xae\x14\x7b")
            .text("save")
            .raw(b"N");
        for (name, value) in [
            ("num_channels_enc", 8),
            ("num_channels_dec", 8),
            ("num_latent_scales", 1),
            ("num_groups_per_scale", 2),
            ("num_latent_per_group", 2),
            ("num_preprocess_blocks", 1),
            ("num_postprocess_blocks", 1),
            ("num_preprocess_cells", 1),
            ("num_postprocess_cells", 1),
            ("num_cell_per_cond_enc", 1),
            ("num_cell_per_cond_dec", 1),
            ("num_nf", 0),
            ("num_mixture_dec", 1),
            ("num_x_bits", 8),
            ("epochs", 10),
            ("batch_size", 4),
        ] {
            args = args.text(name).int(value);
        }
        args.raw(b"ubu.")
    }

    /// What stage 2 saves.
    fn stage2(self) -> Self {
        self.raw(b"\x80\x02}(")
            .text("model")
            .raw(b"}")
            .text("conv1.weight")
            .tensor("0", 6, [2, 3])
            .raw(b"su.")
    }
}

fn storages() -> [Vec<u8>; 2] {
    let bytes = |count: usize| {
        (0..count)
            .flat_map(|value| (value as f32).to_le_bytes())
            .collect()
    };
    [bytes(6), bytes(2)]
}

/// A stored zip archive, as PyTorch lays it out.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = (out.len() as u32).to_le_bytes();
        let size = (data.len() as u32).to_le_bytes();
        let sizes = [[0; 4], size, size].concat();
        let length = (name.len() as u16).to_le_bytes();
        let local = b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0";
        out.extend([&local[..], &sizes, &length, &[0, 0], name.as_bytes(), data].concat());
        let central = b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0";
        directory.extend(
            [
                &central[..],
                &sizes,
                &length,
                &[0; 12],
                &offset,
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let start = (out.len() as u32).to_le_bytes();
    let count = (members.len() as u16).to_le_bytes();
    let length = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend(
        [
            &b"PK\x05\x06\0\0\0\0"[..],
            &count,
            &count,
            &length,
            &start,
            &[0, 0],
        ]
        .concat(),
    );
    out
}

fn with_storages(pickle: &[u8]) -> Vec<u8> {
    let [first, second] = storages();
    archive(&[
        ("a/data.pkl", pickle),
        ("a/byteorder", b"little"),
        ("a/data/0", &first),
        ("a/data/1", &second),
    ])
}

/// The form before archives.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let system = Pickle::default()
        .raw(b"\x80\x02}")
        .text("little_endian")
        .raw(b"\x88s.");
    let keys = Pickle::default()
        .raw(b"\x80\x02](")
        .text("0")
        .text("1")
        .raw(b"e.");
    let mut file = [
        &magic[..],
        b"\x80\x02M\xe9\x03.",
        &system.0,
        pickle,
        &keys.0,
    ]
    .concat();
    for storage in storages() {
        file.extend((storage.len() as u64 / 4).to_le_bytes());
        file.extend(storage);
    }
    file
}

/// Values of every depth, as importing looks at them.
fn count_values(value: &Value) -> usize {
    let below = |values: &[Value]| values.iter().map(count_values).sum::<usize>();
    1 + match value {
        Value::List(values) | Value::Tuple(values) => below(values),
        Value::Dict(entries) => entries
            .iter()
            .map(|(key, value)| count_values(key) + count_values(value))
            .sum(),
        Value::Object(object) => below(&object.args) + count_values(&object.state),
        Value::Tensor(tensor) => tensor.to_f32().map_or(0, |values| values.len()),
        _ => 0,
    }
}

/// Forms: 0, the file; 1, the pickle in an archive; 2, the pickle in the older form.
fn read_torch(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let path = match form(input) {
        (0, contents) => place(folder, "a.pt", contents),
        (1, pickle) => place(folder, "a.pt", &with_storages(pickle)),
        (_, pickle) => place(folder, "a.pt", &legacy(pickle)),
    };
    let value = match read(&path) {
        Ok(value) => value,
        Err(error) => return refused(&error, folder),
    };
    count_values(&value);
    let args = value.get("args").map(config_from_args);
    if let Some(Ok(published)) = args
        && let Err(error) = published.config.validate()
    {
        return Err(format!("it gives a configuration that is refused: {error}"));
    }
    Ok(true)
}

fn seeds() -> Vec<Vec<u8>> {
    let (one, two) = (Pickle::default().stage1().0, Pickle::default().stage2().0);
    let newer = Pickle::default()
        .raw(b"\x80\x04\x95\0\0\0\0\0\0\0\0\x8c\x08builtins\x8c\x03set\x93\x94]\x94(K\x01K\x02e\x85R\x94\x8f(K\x05\x90h\0\x86.")
        .0;
    vec![
        seed(
            0,
            &archive(&[
                ("a/data.pkl", &one),
                ("a/data/0", &storages()[0]),
                ("a/data/1", &storages()[1]),
            ]),
        ),
        seed(0, &with_storages(&one)),
        seed(1, &one),
        seed(1, &two),
        seed(1, &newer),
        seed(2, &one),
    ]
}

#[test]
fn torch_files() {
    fuzz(&Target {
        name: "torch",
        seeds,
        text: false,
        allowed: |length| BASE + 600 * length,
        read: read_torch,
    });
}

/// Importing as far as it goes: the seeds hold no whole model, so it ends by naming what is missing.
fn import_torch(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let path = place(folder, "a.pt", &with_storages(input));
    match import(&path, &folder.join("run")) {
        Ok(_) => Err("a model of two tensors is imported".into()),
        Err(error) => {
            let told = error.to_string();
            match told.contains("weight") || told.contains("missing") {
                true => Ok(true),
                false => Ok(false),
            }
        }
    }
}

#[test]
fn imports() {
    fuzz(&Target {
        name: "import",
        seeds: || vec![Pickle::default().stage1().0],
        text: false,
        allowed: |length| (256 << 20) + 600 * length,
        read: import_torch,
    });
}
