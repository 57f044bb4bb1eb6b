//! What /proc/PID/status says about a process: ids, groups, privileges, and who traces it.
//!
//! The lines speak of the thread group's leader. The kernel escapes line breaks in the one value a process chooses
//! (`Name`), so that no name can pretend to be another line.

use proxy_ebpf::origin::Origin;
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::capabilities::Capabilities;
use super::entry;

/// The file is some 1,500 bytes and the groups; what is longer is not read.
const MAX_STATUS_BYTES: usize = 64 * 1024;
/// The most supplementary groups that are told. Of more, none are: an incomplete list could hide the one that matters.
const MAX_GROUPS: usize = 256;

/// Which system calls are filtered (`SECCOMP_MODE_*`, include/uapi/linux/seccomp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// None.
    Disabled,
    /// All but read, write, exit and sigreturn.
    Strict,
    /// Those that filters of the process's or its ancestors' choose.
    Filter,
}

impl Seccomp {
    pub(super) const fn from_mode(mode: u32) -> Option<Self> {
        match mode {
            0 => Some(Self::Disabled),
            1 => Some(Self::Strict),
            2 => Some(Self::Filter),
            _ => None,
        }
    }

    pub(super) const fn mode(self) -> u32 {
        match self {
            Self::Disabled => 0,
            Self::Strict => 1,
            Self::Filter => 2,
        }
    }
}

/// User or group ids, as the kernel writes them in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
}

/// The lines that were there and made sense.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) uids: Option<Ids>,
    pub(super) gids: Option<Ids>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) no_new_privs: Option<bool>,
    pub(super) seccomp: Option<Seccomp>,
    pub(super) tracer_pid: Option<u32>,
}

impl Status {
    /// Reads the status of the process with this number.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let text = entry::read(pid, "status", MAX_STATUS_BYTES)?;
        // The process's own name comes first and may be any bytes: it must not hide the rest.
        Some(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        // A line cut off at the limit is none.
        let whole = text.rfind('\n').and_then(|end| text.get(..end));
        for line in whole.unwrap_or_default().lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key {
                "Uid" => status.uids = ids(value),
                "Gid" => status.gids = ids(value),
                "Groups" => status.groups = groups(value),
                "CapEff" => status.capabilities = Capabilities::from_mask(value),
                "NoNewPrivs" => status.no_new_privs = Some(value == "1"),
                "Seccomp" => status.seccomp = value.parse().ok().and_then(Seccomp::from_mode),
                "TracerPid" => status.tracer_pid = value.parse().ok().filter(|pid| *pid != 0),
                _ => {}
            }
        }
        status
    }

    /// Whether the process still has the ids it connected with, as far as they were captured.
    pub(super) fn has_ids_of(&self, origin: &Origin) -> bool {
        let (Some(uids), Some(gids), Some((euid, egid))) =
            (self.uids, self.gids, origin.effective_ids())
        else {
            return false;
        };
        let captured_uids = Ids {
            real: origin.uid(),
            effective: euid,
        };
        let captured_gids = Ids {
            real: origin.gid(),
            effective: egid,
        };
        uids == captured_uids && gids == captured_gids
    }
}

/// Real, effective, saved and file-system id.
fn ids(value: &str) -> Option<Ids> {
    let mut numbers = value.split_whitespace().map(str::parse);
    Some(Ids {
        real: numbers.next()?.ok()?,
        effective: numbers.next()?.ok()?,
    })
}

fn groups(value: &str) -> Option<Vec<u32>> {
    let all: Result<Vec<u32>, _> = value.split_whitespace().map(str::parse).collect();
    let all = all.ok()?;
    if all.len() > MAX_GROUPS {
        debug!(
            groups = all.len(),
            "more than {MAX_GROUPS} groups; they are not recorded"
        );
        return None;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tx\\nUid:\\t0\nTracerPid:\t17\nUid:\t1000\t0\t0\t0\nGid:\t100\t101\t101\t101\n\
        Groups:\t4 24 27 \nCapEff:\t0000020000000003\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn each_line_is_read_for_what_it_says() {
        let expected = Status {
            uids: Some(Ids {
                real: 1000,
                effective: 0,
            }),
            gids: Some(Ids {
                real: 100,
                effective: 101,
            }),
            groups: Some(vec![4, 24, 27]),
            capabilities: Capabilities::from_mask("20000000003"),
            no_new_privs: Some(true),
            seccomp: Some(Seccomp::Filter),
            tracer_pid: Some(17),
        };
        assert_eq!(Status::parse(TEXT), expected);
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let path = "/proc/self/comm";
        let usual = std::fs::read(path).unwrap();
        std::fs::write(path, b"\xff\xfe").unwrap();
        let status = Status::of(std::process::id());
        std::fs::write(path, usual).unwrap();
        assert!(status.unwrap().uids.is_some());
    }

    #[test]
    fn what_is_missing_or_cut_off_is_absent() {
        assert_eq!(Status::parse(""), Status::default());
        let cut = "NoNewPrivs:\t0\nTracerPid:\t0\nGroups:\t4 2";
        let expected = Status {
            no_new_privs: Some(false),
            ..Status::default()
        };
        assert_eq!(Status::parse(cut), expected);
    }

    #[test]
    fn a_process_in_no_group_has_an_empty_list_and_one_in_too_many_has_none() {
        let of = |count| Status::parse(&format!("Groups:\t{}\n", "5 ".repeat(count))).groups;
        assert_eq!(of(0), Some(Vec::new()));
        assert_eq!(of(MAX_GROUPS).map(|groups| groups.len()), Some(MAX_GROUPS));
        assert_eq!(of(MAX_GROUPS + 1), None);
    }

    #[test]
    fn ids_count_as_unchanged_only_if_all_four_are_those_captured() {
        let status = Status::parse(TEXT);
        let mut origin = Origin::new(7, 1000, 100, 0, 0);
        assert!(!status.has_ids_of(&origin));
        origin.set_effective_ids(0, 101);
        assert!(status.has_ids_of(&origin));
        origin.set_effective_ids(1000, 101);
        assert!(!status.has_ids_of(&origin));
    }
}
