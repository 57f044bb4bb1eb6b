//! The container and the pod a cgroup path belongs to.
//!
//! Runtimes name cgroups in a few ways, and so could anybody who may make a cgroup somewhere. A name counts only where
//! it takes root to make it: at the root of the hierarchy or directly below systemd's own slices. The outermost match
//! is the container; what runs containers inside a container names those itself.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::cgroup::Place;
use super::fact::Fact;

/// Where the kubelet keeps the logs of pods: one directory `NAMESPACE_NAME_UID` each.
pub const DEFAULT_POD_LOGS: &str = "/var/log/pods";
/// How many of these directories are looked at; a node has some hundred pods at most.
const MAX_POD_LOGS: usize = 4096;
/// The hexadecimal digits of a container id, in every runtime here.
const CONTAINER_ID_DIGITS: usize = 64;
/// The digits of the uid of a static pod, which is a hash of its manifest.
const STATIC_POD_UID_DIGITS: usize = 32;
/// Where the hyphens of a UUID are.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_LENGTH: usize = 36;

/// A container, as its runtime named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Which runtime made it.
    pub runtime: Runtime,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
}

/// Container runtimes that name cgroups so that they can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd, as the kubelet uses it.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman run by root.
    Podman,
    /// The layout, the kubelet's with its cgroupfs driver, does not tell.
    Unknown,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid; of a static pod the hash of its manifest.
    pub uid: String,
    /// Its namespace, if the kubelet's log directory tells.
    pub namespace: Option<String>,
    /// Its name, if the kubelet's log directory tells.
    pub name: Option<String>,
}

/// What follows from a cgroup's path.
#[derive(Debug, Default)]
pub(super) struct Placement {
    pub(super) systemd_unit: Option<Fact<String>>,
    pub(super) systemd_slice: Option<Fact<String>>,
    pub(super) container: Option<Fact<Container>>,
    pub(super) pod: Option<Fact<Pod>>,
}

impl Placement {
    /// Reads the path, and the names of pods from `logs`. All of it can be trusted as far as the path.
    pub(super) fn of(path: &Fact<String>, logs: &Path) -> Self {
        let Some(place) = Place::of(path.value()) else {
            return Self::default();
        };
        let text = |part: &str| path.with(part.to_owned());
        Self {
            systemd_unit: place.unit().map(text),
            systemd_slice: place.slice().map(text),
            container: container(&place).map(|container| path.with(container)),
            pod: pod(&place, logs).map(|pod| path.with(pod)),
        }
    }
}

/// The prefixes of scopes, each with the runtime that names them so.
const PREFIXES: [(&str, Runtime); 4] = [
    ("docker-", Runtime::Docker),
    ("cri-containerd-", Runtime::Containerd),
    ("crio-", Runtime::CriO),
    ("libpod-", Runtime::Podman),
];

/// The container that `place` belongs to.
fn container(place: &Place<'_>) -> Option<Container> {
    let below = place.below.as_slice();
    match below {
        // The systemd driver of every runtime.
        [scope, ..] if scope.ends_with(".scope") => prefixed(scope.strip_suffix(".scope")?),
        _ if !place.slices.is_empty() => None,
        // The cgroupfs driver.
        ["docker", id, ..] => named(Runtime::Docker, id),
        // In a pod of Podman's own, its directory is between; a Kubernetes pod it is not.
        ["libpod_parent", pod, id, ..] if is_hexadecimal(pod, CONTAINER_ID_DIGITS) => prefixed(id),
        ["libpod_parent", id, ..] => prefixed(id),
        _ => {
            let (_, inside) = kubepods(below)?;
            let leaf = inside.first()?;
            prefixed(leaf).or_else(|| named(Runtime::Unknown, leaf))
        }
    }
}

/// The pod that `place` belongs to, with the names that `logs` has for it.
fn pod(place: &Place<'_>, logs: &Path) -> Option<Pod> {
    let uid = match place.slice() {
        Some(slice) => slice_pod_uid(slice)?,
        None => kubepods(&place.below)?.0,
    };
    let (namespace, name) = names(&uid, logs).unzip();
    Some(Pod {
        uid,
        namespace,
        name,
    })
}

/// `kubepods[/burstable|/besteffort]/podUID/…`: the uid, and what lies below.
fn kubepods<'a>(below: &'a [&'a str]) -> Option<(String, &'a [&'a str])> {
    let (pod, inside) = match below {
        ["kubepods", "burstable" | "besteffort", pod, inside @ ..]
        | ["kubepods", pod, inside @ ..] => (pod, inside),
        _ => return None,
    };
    Some((pod_uid(pod.strip_prefix("pod")?)?, inside))
}

/// `kubepods[-burstable|-besteffort]-podUID.slice`, with `_` for `-` in the uid. What may stand before are the slices
/// that the kubelet was told to put its own below.
fn slice_pod_uid(slice: &str) -> Option<String> {
    let (class, uid) = slice.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let class = class
        .strip_suffix("-burstable")
        .or_else(|| class.strip_suffix("-besteffort"))
        .unwrap_or(class);
    let is_kubelets = class == "kubepods" || class.ends_with("-kubepods");
    is_kubelets.then(|| pod_uid(&uid.replace('_', "-")))?
}

fn prefixed(name: &str) -> Option<Container> {
    let mut prefixes = PREFIXES.iter();
    prefixes.find_map(|(prefix, runtime)| named(*runtime, name.strip_prefix(prefix)?))
}

fn named(runtime: Runtime, id: &str) -> Option<Container> {
    is_hexadecimal(id, CONTAINER_ID_DIGITS).then(|| Container {
        runtime,
        id: id.to_owned(),
    })
}

fn pod_uid(text: &str) -> Option<String> {
    let has_hyphens = UUID_HYPHENS
        .iter()
        .all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let digits = text.replace('-', "");
    let is_uuid = text.len() == UUID_LENGTH && has_hyphens;
    let is_uid =
        (is_uuid || text.len() == digits.len()) && is_hexadecimal(&digits, STATIC_POD_UID_DIGITS);
    is_uid.then(|| text.to_owned())
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Namespace and name of the pod with this uid. Neither can hold `_`; two directories for one uid tell nothing.
fn names(uid: &str, logs: &Path) -> Option<(String, String)> {
    let mut found = None;
    for (seen, entry) in fs::read_dir(logs).ok()?.enumerate() {
        if seen == MAX_POD_LOGS {
            debug!(
                "more than {MAX_POD_LOGS} entries in {}; pods have no names",
                logs.display()
            );
            return None;
        }
        let name = entry.ok()?.file_name();
        let parts: Vec<&str> = name.to_str().unwrap_or_default().split('_').collect();
        if let [namespace, name, of] = parts.as_slice()
            && *of == uid
        {
            let another = found.replace(((*namespace).to_owned(), (*name).to_owned()));
            if another.is_some() {
                return None;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
