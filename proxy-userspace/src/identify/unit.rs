//! The systemd unit a cgroup path belongs to.

use super::Fact;

/// The unit that systemd itself put the process into: the first component below the slices, if it is a service or a
/// scope (systemd's own rule, `cg_path_decode_unit`). What lies below belongs to whom the cgroup is delegated to, who
/// may name it after anything.
pub(super) fn systemd_unit(cgroup: &Fact<String>) -> Option<Fact<String>> {
    let mut below_slices = cgroup
        .value
        .split('/')
        .filter(|part| !part.is_empty())
        .skip_while(|part| part.ends_with(".slice"));
    below_slices
        .next()
        .filter(|part| part.ends_with(".service") || part.ends_with(".scope"))
        .map(|unit| Fact {
            value: unit.to_owned(),
            grade: cgroup.grade,
        })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn the_unit_is_systemds_own_and_nothing_below_it() {
        let cases = [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/app.service/workers", Some("app.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/psql.scope",
                Some("user@1000.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                Some("user@1000.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            ("/elsewhere/nginx.service", None),
            ("/user.slice", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            let cgroup = Fact {
                value: path.to_owned(),
                grade: Grade::Verified,
            };
            let unit = systemd_unit(&cgroup);
            assert_eq!(
                unit.as_ref().map(|unit| unit.value.as_str()),
                expected,
                "{path}"
            );
        }
    }
}
