//! A real server of the tests: on a free port of this host, ended with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::Pid;

use crate::ports::free_port;
use crate::process::{Must, wait_until};

/// A free port may be taken by another before the server has it.
const TRIES: usize = 5;

/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_mins(5);

/// What a server's program is given, for an address.
type Arguments = Box<dyn Fn(&mut Command, SocketAddr) + Send + Sync>;

/// A server that takes connections.
pub(crate) struct Server {
    name: &'static str,
    arguments: Arguments,
    log: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts one at a free port of an address. The arguments are those of `setpriv`, so that it ends with the thread that
    /// started it, also when that is killed: the program is the first one. What it says is added to `log`.
    pub(crate) fn start(
        name: &'static str,
        at: Ipv4Addr,
        log: PathBuf,
        arguments: impl Fn(&mut Command, SocketAddr) + Send + Sync + 'static,
    ) -> Self {
        let arguments: Arguments = Box::new(arguments);
        for _ in 0..TRIES {
            let address = SocketAddr::from((at, free_port(at)));
            if let Some(child) = serve(name, &arguments, &log, address) {
                return Self { name, arguments, log, address, child };
            }
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        panic!("{name} does not start (is its package installed? `make setup` does it): {said}");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits into pid_t"))
    }

    /// All that it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).must(format_args!("read the log of {}", self.name))
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        let child = serve(self.name, &self.arguments, &self.log, self.address);
        self.child = child.must(format_args!("start {} again", self.name));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// The process, once it takes connections; none if it ended before.
fn serve(name: &str, arguments: &Arguments, log: &Path, address: SocketAddr) -> Option<Child> {
    let said = fs::OpenOptions::new().create(true).append(true).open(log).must(format_args!("open the log of {name}"));
    let errors = said.try_clone().must(format_args!("share the log of {name}"));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    arguments(&mut command, address);
    let mut child = command.stdin(Stdio::null()).stdout(said).stderr(errors).spawn().must(format_args!("start {name}"));
    let mut ended = false;
    wait_until(format_args!("{name} takes no connections at {address}"), START, || {
        ended = child.try_wait().must(format_args!("look after {name}")).is_some();
        ended || TcpStream::connect(address).is_ok()
    });
    // Another one may have taken the port, and the connection.
    (!ended && child.try_wait().must(format_args!("look after {name}")).is_none()).then_some(child)
}
