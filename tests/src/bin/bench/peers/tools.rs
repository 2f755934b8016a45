//! restic and kopia as their users run them.

use std::path::{Path, PathBuf};
use std::process::Command;

use remora_tests::s3::{KEY, SECRET};
use remora_tests::{Must, run};

use super::Place;

/// A tool with a repository.
pub(super) trait Tool {
    /// Its name and version.
    fn name(&self) -> String;
    /// The folder that its repository's bytes lie in.
    fn place(&self) -> PathBuf;
    /// Backs an image up.
    fn backup(&self, image: &Path) -> Command;
    /// Restores the newest backup of an image into a folder that is not there yet.
    fn restore(&self, image: &Path, to: &Path) -> Command;
    /// Where in that folder the image then is.
    fn restored(&self, image: &Path, to: &Path) -> PathBuf;
}

pub(super) struct Restic {
    repository: String,
    place: PathBuf,
    state: PathBuf,
}

impl Restic {
    /// With a new repository.
    pub(super) fn boxed(place: &Place<'_>, state: &Path) -> Box<dyn Tool> {
        let repository = match place {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Bucket(s3, bucket) => format!("s3:{}/{bucket}", s3.endpoint()),
        };
        let restic = Self { repository, place: place.folder(), state: state.to_owned() };
        run(restic.command().arg("init")).ok();
        Box::new(restic)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command.args(["--quiet", "--repo", &self.repository]).env("RESTIC_PASSWORD", "a password");
        command.env("RESTIC_CACHE_DIR", &self.state).env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }
}

impl Tool for Restic {
    fn name(&self) -> String {
        let version = run(Command::new("restic").arg("version")).ok().text().to_owned();
        version.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn place(&self) -> PathBuf {
        self.place.clone()
    }

    fn backup(&self, image: &Path) -> Command {
        let mut command = self.command();
        command.arg("backup").arg(image);
        command
    }

    fn restore(&self, _: &Path, to: &Path) -> Command {
        let mut command = self.command();
        command.args(["restore", "latest", "--target"]).arg(to);
        command
    }

    fn restored(&self, image: &Path, to: &Path) -> PathBuf {
        to.join(image.strip_prefix("/").must("take an absolute path"))
    }
}

pub(crate) struct Kopia {
    place: PathBuf,
    state: PathBuf,
}

impl Kopia {
    pub(super) fn boxed(place: &Place<'_>, state: &Path) -> Box<dyn Tool> {
        Box::new(Self::new(place, state))
    }

    /// With a new repository.
    pub(crate) fn new(place: &Place<'_>, state: &Path) -> Self {
        let kopia = Self { place: place.folder(), state: state.to_owned() };
        let mut create = kopia.command();
        create.args(["repository", "create"]);
        match place {
            Place::Folder(folder) => create.arg("filesystem").arg("--path").arg(folder),
            Place::Bucket(s3, bucket) => create.args(["s3", "--disable-tls", "--bucket", bucket]).args([
                "--region=us-east-1",
                &format!("--endpoint={}", s3.address()),
                &format!("--access-key={KEY}"),
                &format!("--secret-access-key={SECRET}"),
            ]),
        };
        run(&mut create).ok();
        run(kopia.command().args(["policy", "set", "--global", "--compression=zstd-fastest"])).ok();
        kopia
    }

    /// Backs up what it is given at its standard input.
    pub(crate) fn backup_of_input(&self, name: &str) -> Command {
        let mut command = self.command();
        command.args(["snapshot", "create", "--stdin-file", name, "/"]);
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(remora_tests::tool("kopia", "setup-kopia"));
        command.arg("--no-progress").arg("--config-file").arg(self.state.join("config"));
        command.env("KOPIA_PASSWORD", "a password").env("KOPIA_CHECK_FOR_UPDATES", "false");
        command.env("KOPIA_CACHE_DIRECTORY", self.state.join("cache")).env("KOPIA_LOG_DIR", self.state.join("logs"));
        command.env("HOME", &self.state);
        command
    }
}

impl Tool for Kopia {
    fn name(&self) -> String {
        let version = run(self.command().arg("--version")).ok().text().to_owned();
        format!("kopia {}", version.split_whitespace().next().unwrap_or_default().trim_start_matches('v'))
    }

    fn place(&self) -> PathBuf {
        self.place.clone()
    }

    fn backup(&self, image: &Path) -> Command {
        let mut command = self.command();
        command.args(["snapshot", "create"]).arg(image.parent().must("find a folder"));
        command
    }

    fn restore(&self, image: &Path, to: &Path) -> Command {
        let mut command = self.command();
        command.args(["restore", "--snapshot-time=latest"]).arg(image.parent().must("find a folder")).arg(to);
        command
    }

    fn restored(&self, image: &Path, to: &Path) -> PathBuf {
        to.join(image.file_name().must("find a file's name"))
    }
}
