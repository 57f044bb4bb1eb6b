//! The systemd unit a cgroup path belongs to.

use super::Fact;

/// The innermost service or scope on the path, as systemd names cgroups after units (systemd.resource-control(5)).
pub(super) fn systemd_unit(cgroup: &Fact<String>) -> Option<Fact<String>> {
    let mut innermost_first = cgroup.value.rsplit('/');
    innermost_first
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
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
    fn the_innermost_unit_is_named() {
        let cases = [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/app.service/workers", Some("app.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/psql.scope",
                Some("psql.scope"),
            ),
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
