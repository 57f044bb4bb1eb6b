use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_ID: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const UID: &str = "6f1c1a34-5d2e-4c6b-9d2a-0b8f6f0f1e2d";
const UID_IN_SLICE: &str = "6f1c1a34_5d2e_4c6b_9d2a_0b8f6f0f1e2d";
const STATIC_UID: &str = "00112233445566778899aabbccddeeff";

/// What a path is taken for: runtime and id, and the pod's uid.
fn seen(path: &str) -> (Option<(Runtime, String)>, Option<String>) {
    let Some(place) = Place::of(path) else {
        return (None, None);
    };
    let nowhere = Path::new("/nonexistent");
    (
        container(&place).map(|found| (found.runtime, found.id)),
        pod(&place, nowhere).map(|found| found.uid),
    )
}

fn check(cases: &[(String, Option<Runtime>, Option<&str>)]) {
    for (path, runtime, uid) in cases {
        let expected = (
            runtime.map(|runtime| (runtime, ID.to_owned())),
            uid.map(str::to_owned),
        );
        assert_eq!(seen(path), expected, "{path}");
    }
}

#[test]
fn containers_of_the_systemd_driver_are_scopes_below_slices() {
    let pod = format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_IN_SLICE}.slice"
    );
    let guaranteed = format!("/kubepods.slice/kubepods-pod{UID_IN_SLICE}.slice");
    let fixed = format!("/kubepods.slice/kubepods-pod{STATIC_UID}.slice");
    let nested = format!(
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UID_IN_SLICE}.slice"
    );
    check(&[
        (
            format!("/system.slice/docker-{ID}.scope"),
            Some(Runtime::Docker),
            None,
        ),
        (
            format!("/system.slice/docker-{ID}.scope/init.scope"),
            Some(Runtime::Docker),
            None,
        ),
        (
            format!("/machine.slice/libpod-{ID}.scope/container"),
            Some(Runtime::Podman),
            None,
        ),
        (
            format!("{pod}/cri-containerd-{ID}.scope"),
            Some(Runtime::Containerd),
            Some(UID),
        ),
        (
            format!("{guaranteed}/crio-{ID}.scope/container"),
            Some(Runtime::CriO),
            Some(UID),
        ),
        (
            format!("{fixed}/crio-{ID}.scope"),
            Some(Runtime::CriO),
            Some(STATIC_UID),
        ),
        (
            format!("{nested}/cri-containerd-{ID}.scope"),
            Some(Runtime::Containerd),
            Some(UID),
        ),
        (format!("{pod}/crio-conmon-{ID}.scope"), None, Some(UID)),
        (
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            None,
            None,
        ),
        ("/system.slice/docker.service".to_owned(), None, None),
        (
            format!("/system.slice/docker-{}.scope", &ID[1..]),
            None,
            None,
        ),
        (
            format!("/system.slice/docker-{}.scope", ID.to_uppercase()),
            None,
            None,
        ),
    ]);
}

#[test]
fn containers_of_the_cgroupfs_driver_are_directories_at_the_root() {
    check(&[
        (format!("/docker/{ID}"), Some(Runtime::Docker), None),
        (format!("/docker/{ID}/init"), Some(Runtime::Docker), None),
        (
            format!("/docker/{ID}/docker/{OTHER_ID}"),
            Some(Runtime::Docker),
            None,
        ),
        (
            format!("/libpod_parent/libpod-{ID}"),
            Some(Runtime::Podman),
            None,
        ),
        (
            format!("/libpod_parent/{OTHER_ID}/libpod-{ID}"),
            Some(Runtime::Podman),
            None,
        ),
        (
            format!("/libpod_parent/{OTHER_ID}/libpod-{ID}/init"),
            Some(Runtime::Podman),
            None,
        ),
        (format!("/libpod_parent/{OTHER_ID}"), None, None),
        (
            format!("/libpod_parent/{}/libpod-{ID}", &OTHER_ID[1..]),
            None,
            None,
        ),
        (format!("/libpod_parent/conmon/libpod-{ID}"), None, None),
        (
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            Some(Runtime::Unknown),
            Some(UID),
        ),
        (
            format!("/kubepods/besteffort/pod{UID}/crio-{ID}"),
            Some(Runtime::CriO),
            Some(UID),
        ),
        (
            format!("/kubepods/pod{UID}/{ID}/system.slice"),
            Some(Runtime::Unknown),
            Some(UID),
        ),
        (
            format!("/kubepods/pod{STATIC_UID}/{ID}"),
            Some(Runtime::Unknown),
            Some(STATIC_UID),
        ),
        (format!("/kubepods/pod{UID}"), None, Some(UID)),
        ("/kubepods/burstable".to_owned(), None, None),
        ("/docker".to_owned(), None, None),
        (
            format!("/kubepods/burstable/pod{}/{ID}", &UID[1..]),
            None,
            None,
        ),
    ]);
}

#[test]
fn nothing_inside_a_delegated_subtree_is_a_container_or_a_pod() {
    let delegations = [
        "/user.slice/user-1000.slice/user@1000.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope",
        "/user.slice/user-1000.slice/session-3.scope",
        "/system.slice/worker.service",
        "/elsewhere",
        "/..",
    ];
    let pretences = [
        format!("docker-{ID}.scope"),
        format!("docker/{ID}"),
        format!("system.slice/docker-{ID}.scope"),
        format!("machine.slice/libpod-{ID}.scope/container"),
        format!("user.slice/libpod-{ID}.scope/container"),
        format!("libpod_parent/libpod-{ID}"),
        format!("libpod_parent/{OTHER_ID}/libpod-{ID}"),
        format!("kubepods/burstable/pod{UID}/{ID}"),
        format!("kubepods/pod{UID}/crio-{ID}"),
        format!("kubepods.slice/kubepods-pod{UID_IN_SLICE}.slice/crio-{ID}.scope"),
        format!("kubepods-pod{UID_IN_SLICE}.slice"),
        "nginx.service".to_owned(),
        "system.slice/nginx.service".to_owned(),
    ];
    for delegation in delegations {
        for pretence in &pretences {
            let path = format!("{delegation}/{pretence}");
            assert_eq!(seen(&path), (None, None), "{path}");
            let place = Place::of(&path);
            let unit = place.as_ref().and_then(Place::unit);
            assert!(
                unit.is_none_or(|unit| delegation.contains(unit)),
                "{path}: {unit:?}"
            );
            let slice = place.as_ref().and_then(Place::slice);
            assert!(
                slice.is_none_or(|slice| delegation.contains(slice)),
                "{path}: {slice:?}"
            );
        }
    }
}

#[test]
fn a_container_inside_a_container_is_the_outer_one() {
    let (found, uid) = seen(&format!(
        "/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{OTHER_ID}.scope"
    ));
    assert_eq!((found, uid), (Some((Runtime::Docker, ID.to_owned())), None));
}

#[test]
fn a_pod_has_the_names_of_the_one_directory_with_its_uid() {
    let logs = tempfile::tempdir().unwrap();
    let path = format!("/kubepods/pod{UID}");
    let found = || {
        let pod = pod(&Place::of(&path).unwrap(), logs.path()).unwrap();
        (pod.namespace, pod.name)
    };
    let make = |name: String| fs::create_dir(logs.path().join(name)).unwrap();
    make(format!("shop_too_many_{UID}"));
    make("shop_other_6f1c1a34-5d2e-4c6b-9d2a-0b8f6f0f1e2e".to_owned());
    assert_eq!(found(), (None, None));
    make(format!("shop_api-7d9f_{UID}"));
    assert_eq!(
        found(),
        (Some("shop".to_owned()), Some("api-7d9f".to_owned()))
    );
    make(format!("shop_api-copy_{UID}"));
    assert_eq!(found(), (None, None));
}

#[test]
fn more_log_directories_than_a_node_can_have_tell_nothing() {
    let logs = tempfile::tempdir().unwrap();
    fs::create_dir(logs.path().join(format!("shop_api_{UID}"))).unwrap();
    for number in 1..MAX_POD_LOGS {
        fs::create_dir(logs.path().join(number.to_string())).unwrap();
    }
    assert_eq!(
        names(UID, logs.path()),
        Some(("shop".to_owned(), "api".to_owned()))
    );
    fs::create_dir(logs.path().join("one-more")).unwrap();
    assert_eq!(names(UID, logs.path()), None);
}
