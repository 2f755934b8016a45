//! `remora plugin new`: a folder with a policy or a mover that works, and all that it is built from.

use std::fs;
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use serde::Serialize;

use super::templates::{File, template};
use crate::args::New;
use crate::context::Context;
use crate::output::print;

/// The result; the shape is a contract.
#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    files: Vec<&'static str>,
}

pub(super) fn run(context: &Context, args: &New) -> Result<()> {
    let files = template(args.language, args.kind)?;
    let folder = PathBuf::from(&args.name);
    fs::create_dir(&folder).map_err(|error| match error.kind() {
        Io::AlreadyExists => Error::new(ErrorKind::Exists, format!("{} is there already", folder.display()))
            .advise("Choose another name, or move it away."),
        _ => Error::io(format!("making the folder {}", folder.display()), error),
    })?;
    if let Err(error) = write_all(&folder, &files, &args.name) {
        // Half a template would only puzzle; what cannot be removed is seen by whoever tries again.
        fs::remove_dir_all(&folder).ok();
        return Err(error);
    }
    let made = Made { files: files.iter().map(|file| file.path).collect(), folder };
    print(context.format(), &made, |made| {
        let folder = made.folder.display();
        format!("Made {folder}: {folder}/README.md says how to build and to test it.")
    })
}

fn write_all(folder: &Path, files: &[File], name: &str) -> Result<()> {
    for file in files {
        let path = folder.join(file.path);
        write(&path, &file.contents(name), file.mode())
            .map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
    }
    Ok(())
}

fn write(path: &Path, contents: &str, mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(contents.as_bytes())
}
