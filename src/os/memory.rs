//! How much memory a process may use.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;

/// The least of the limits on memory that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// In bytes.
    pub bytes: u64,
    /// It is that of a control group, such as a container, and not the machine's.
    pub of_group: bool,
}

/// The memory of the machine, or of the control group that this process is in, whichever is less.
/// None if neither can be told.
pub fn memory_limit() -> Option<MemoryLimit> {
    let machine = sysinfo().ok().map(|info| MemoryLimit { bytes: info.ram_total(), of_group: false });
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_limit(&own, |path| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok());
    let group = group.map(|bytes| MemoryLimit { bytes, of_group: true });
    [machine, group].into_iter().flatten().min_by_key(|limit| limit.bytes)
}

/// The least limit of the control groups in `own`, the text of `/proc/self/cgroup`, and of those
/// above them. `read` reads a file below the root of all control groups.
///
/// Version 2 has a single line `0::/path` and files `memory.max`, version 1 a line
/// `N:memory:/path` and files `memory.limit_in_bytes` below `memory/`. Inside a container the path
/// may lead nowhere: the files of its own group are then at the root.
fn group_limit(own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = if number == "0" && controllers.is_empty() {
            ("", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            let file: PathBuf = [Path::new(root), folder, Path::new(file)].iter().collect();
            // 'max', and a number beyond all memory, mean that there is no limit.
            let limit = read(&file).and_then(|text| text.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(own: &str, files: &[(&str, &str)]) -> Option<u64> {
        group_limit(own, |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let files = [("a/memory.max", "41943040\n"), ("a/b/memory.max", "max\n"), ("memory.max", "99999999999\n")];
        assert_eq!(limit("0::/a/b\n", &files), Some(40 << 20));
        assert_eq!(limit("0::/\n", &[("memory.max", "1000")]), Some(1000), "inside a container");
        assert_eq!(limit("0::/a\n", &[("a/memory.max", "max")]), None);
    }

    #[test]
    fn the_first_version_has_other_names() {
        let own = "12:cpu,cpuacct:/x\n4:memory:/docker/1\n1:name=systemd:/\n";
        let files = [
            ("memory/docker/1/memory.limit_in_bytes", "5000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limit(own, &files), Some(5000));
    }

    #[test]
    fn nonsense_is_no_limit() {
        for own in ["", "x", "::", "0::", "a:memory:b"] {
            assert_eq!(limit(own, &[]), None);
        }
    }
}
