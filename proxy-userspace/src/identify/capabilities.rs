//! Capabilities, as the kernel holds them and /proc writes them and as records and policies name them.

use std::borrow::Cow;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// Capability names by number (include/uapi/linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads a line's mask, in hexadecimal.
    pub(super) fn from_mask(digits: &str) -> Option<Self> {
        u64::from_str_radix(digits, 16).ok().map(Self)
    }

    /// Takes a mask by number.
    pub(super) const fn from_bits(mask: u64) -> Self {
        Self(mask)
    }

    /// The mask by number.
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the one of this name is in it.
    pub fn contains(self, name: &str) -> bool {
        number(name).is_some_and(|number| self.0 >> number & 1 == 1)
    }

    fn names(self) -> impl Iterator<Item = Cow<'static, str>> {
        let held = (0..u64::BITS as usize).filter(move |number| self.0 >> number & 1 == 1);
        held.map(name)
    }
}

fn name(number: usize) -> Cow<'static, str> {
    let known = CAPABILITIES.get(number);
    known.map_or_else(|| Cow::Owned(numbered(number)), |name| Cow::Borrowed(*name))
}

/// What one is called that has no name here. It may have one by the time a record is read back.
fn numbered(number: usize) -> String {
    format!("cap_{number}")
}

fn number(called: &str) -> Option<usize> {
    let is_called = |number: &usize| name(*number) == called || numbered(*number) == called;
    (0..u64::BITS as usize).find(is_called)
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().try_fold(Self(0), |Self(mask), name| {
            let unknown = || de::Error::custom(format!("there is no capability {name:?}"));
            number(name)
                .map(|number| Self(mask | 1 << number))
                .ok_or_else(unknown)
        })
    }
}

impl From<Capabilities> for Value {
    fn from(capabilities: Capabilities) -> Self {
        capabilities.names().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_has_its_name_and_one_without_is_called_by_its_number() {
        let some = Capabilities::from_mask("0000020000000003").unwrap();
        let names = r#"["cap_chown","cap_dac_override","cap_41"]"#;
        assert_eq!(serde_json::to_string(&some).unwrap(), names);
        assert_eq!(serde_json::from_str::<Capabilities>(names).unwrap(), some);
        assert_eq!(Value::from(some).to_string(), names);
        assert!(some.contains("cap_dac_override") && some.contains("cap_41"));
        assert!(!some.contains("cap_kill") && !some.contains("cap_64") && !some.contains("kill"));
        let before_it_had_a_name = serde_json::from_str::<Capabilities>(r#"["cap_5"]"#).unwrap();
        assert!(before_it_had_a_name.contains("cap_kill"));
    }

    #[test]
    fn a_name_that_is_none_is_refused_by_name() {
        for name in ["cap_made_up", "cap_64", "cap_07", "cap_+42", "chown"] {
            let read = serde_json::from_value::<Capabilities>(Value::from(vec![name]));
            assert!(read.unwrap_err().to_string().contains(name));
        }
    }
}
