//! The test servers' certificate authority: made by `openssl` for every run, so that nothing secret
//! and nothing that expires is committed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// The role that authenticates with the client certificate: its common name.
pub const CERTIFICATE_ROLE: &str = "app_cert";

/// Makes `ca.crt`, `server.{crt,key}` and `client.{crt,key}` in `directory`.
///
/// # Errors
/// When `openssl` is missing or refuses.
pub fn make(directory: &Path) -> Result<()> {
    openssl(
        directory,
        &[
            "req",
            "-x509",
            "-subj",
            "/CN=pgusher test CA",
            "-days",
            "2",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ],
        &NEW_KEY,
    )?;
    sign(
        directory,
        "server",
        "localhost",
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
    )?;
    sign(
        directory,
        "client",
        CERTIFICATE_ROLE,
        "extendedKeyUsage=clientAuth",
    )
}

/// An elliptic-curve key without a pass phrase.
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

fn sign(directory: &Path, name: &str, common_name: &str, extension: &str) -> Result<()> {
    let subject = format!("/CN={common_name}");
    let [key, request, certificate] =
        ["key", "csr", "crt"].map(|suffix| format!("{name}.{suffix}"));
    openssl(
        directory,
        &["req", "-subj", &subject, "-keyout", &key, "-out", &request],
        &NEW_KEY,
    )?;
    fs::write(directory.join("extensions"), extension)?;
    let authority = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(
        directory,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-out",
            &certificate,
            "-days",
            "2",
            "-extfile",
            "extensions",
        ],
        &authority,
    )
}

fn openssl(directory: &Path, arguments: &[&str], more: &[&str]) -> Result<()> {
    let finished = run(Command::new("openssl")
        .current_dir(directory)
        .args(arguments)
        .args(more))
    .context("install the package openssl")?;
    finished.success()?;
    Ok(())
}
