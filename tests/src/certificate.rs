//! Certificates of servers on this host.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Must, run};

/// A CA, and a certificate of it for localhost: `ca.pem`, `cert.pem` and `key.pem` in a folder.
pub(crate) fn make_certificate(dir: &Path) {
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir)).ok();
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=remora test CA",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "request.pem",
        "-subj",
        "/CN=localhost",
    ]);
    fs::write(dir.join("extensions"), "subjectAltName=DNS:localhost,DNS:*.localhost,IP:127.0.0.1\n")
        .must("write extensions");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "extensions",
        "-out",
        "cert.pem",
    ]);
}
