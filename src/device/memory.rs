//! How much memory the machine can still give.

/// Bytes that the host can give without swapping, as the kernel estimates it, within the limit of the control group.
///
/// Where neither can be read (another operating system) there is no limit to report: `usize::MAX`.
pub fn available_bytes() -> usize {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_in_meminfo(&text));
    machine
        .unwrap_or(usize::MAX)
        .min(group_headroom().unwrap_or(usize::MAX))
}

fn available_in_meminfo(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the control group (version 2) leaves; `None` without one or without a limit.
fn group_headroom() -> Option<usize> {
    let read = |file: &str| -> Option<usize> {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse().ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// The process's resident memory in bytes, and its peak; `None` where the system does not tell.
pub fn resident_bytes() -> Option<(usize, usize)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<usize> {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// Lets the peak of [`resident_bytes`] begin anew at what is resident now, where the system allows it; elsewhere it stays the process's.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       100 kB\nMemAvailable:    24 kB\n";
        assert_eq!(available_in_meminfo(text), Some(24 * 1024));
        assert_eq!(available_in_meminfo("MemTotal: 1 kB"), None);
        assert_eq!(available_in_meminfo("MemAvailable: many"), None);
    }
}
