//! Builds the BPF objects from `proxy-ebpf` and leaves them in `OUT_DIR` for `intercept::object` to embed.
//!
//! `core` for the BPF target comes from the source of the very compiler that builds it. Which compiler that is, and
//! where the linker is, was decided by `cargo xtask setup` and written to `target/toolchain/bpf.env`; aya-build is
//! not used because it only knows compilers that rustup manages.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const BINARIES: [&str; 2] = ["pgusher-ebpf", "pgusher-fast-path"];

fn main() -> Result<()> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("the package has no parent folder")?
        .to_path_buf();
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let toolchain = workspace.join("target/toolchain/bpf.env");
    for input in [
        toolchain.as_path(),
        &workspace.join("proxy-ebpf"),
        &workspace.join("Cargo.lock"),
    ] {
        println!("cargo:rerun-if-changed={}", input.display());
    }
    ensure!(
        env::var("CARGO_CFG_TARGET_ENDIAN")? == "little",
        "pgusher's BPF object is built for little-endian machines only"
    );

    let tools = read_toolchain(&toolchain)?;
    // Not below OUT_DIR: debug, release and clippy builds would each compile the same object again.
    let target_dir = workspace.join("target/bpf");
    build_object(&workspace, &tools, &target_dir)?;
    for binary in BINARIES {
        let built = target_dir.join(TARGET).join("release").join(binary);
        let mut object = fs::read(&built)
            .with_context(|| format!("the BPF build left no {}", built.display()))?;
        make_union_names_legal(&mut object);
        fs::write(out_dir.join(binary), object)?;
    }
    Ok(())
}

/// Renames a type the kernel's BTF check refuses ("Invalid name"): bpf-linker 0.10 mangles the generic names of
/// structures but not of unions, and aya-log's level global holds one. Without BTF there is no socket storage. The
/// length stays, so nothing else in the object moves.
fn make_union_names_legal(object: &mut [u8]) {
    const REFUSED: &[u8] = b"MaybeUninit<u8>\0";
    const LEGAL: &[u8] = b"MaybeUninit_u8_\0";
    for at in 0..object.len() {
        if let Some(found) = object
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..REFUSED.len()))
            && *found == *REFUSED
        {
            found.copy_from_slice(LEGAL);
        }
    }
}

/// Reads `key=value` lines.
fn read_toolchain(path: &Path) -> Result<HashMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "{} is missing: run `cargo xtask setup` once, it finds or installs the BPF toolchain",
            path.display()
        )
    })?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect())
}

fn build_object(
    workspace: &Path,
    tools: &HashMap<String, String>,
    target_dir: &Path,
) -> Result<()> {
    let tool = |key: &str| {
        tools.get(key).with_context(|| {
            format!("target/toolchain/bpf.env has no `{key}`: run `cargo xtask setup` again")
        })
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let rustflags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--package", "proxy-ebpf", "--release"])
        .args(BINARIES.into_iter().flat_map(|binary| ["--bin", binary]))
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("RUSTC", tool("rustc")?)
        // The distribution's compiler is a stable one; its own source is what makes build-std sound with it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", tool("linker")?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        // Unoptimised, the programs would not fit into BPF's 512 bytes of stack.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        // bpf-linker does the link-time optimisation itself.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        // Incremental builds are many units, which no BPF linker puts together; the host's may be.
        .env("CARGO_INCREMENTAL", "0")
        // clippy and coverage tools wrap the host's compiler; the BPF build is not theirs.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR");
    let output = cargo
        .output()
        .with_context(|| format!("{cargo:?} did not start"))?;
    if !output.status.success() {
        bail!(
            "building the BPF object failed ({}); the toolchain is that of target/toolchain/bpf.env\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
