//! Running `kubectl` again where servers of a busy machine do not answer. What it comes to in the end may be that.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use crate::process::{Ran, run_until_heard};

/// How long they may take to answer.
const ANSWER: Duration = Duration::from_mins(10);

/// What `kubectl` says of an API server that cannot answer now, or whose etcd cannot: one that starts, or has too much to do.
const NO_ANSWER: [&str; 13] = [
    // No connection is made.
    "The connection to the server ",
    "Unable to connect to the server: ",
    // It ends.
    "http2: client connection lost",
    "unexpected error when reading response body",
    "unexpected EOF",
    // The API server says so itself.
    "Error from server (Timeout): ",
    "Error from server (ServerTimeout): ",
    "Error from server (ServiceUnavailable): ",
    "Error from server (TooManyRequests): ",
    // Its etcd does.
    "etcdserver: request timed out",
    "etcdserver: leader changed",
    "etcdserver: no leader",
    "rpc error: code = Unavailable ",
];

/// What it says of a request that was not even heard: no connection was made, or it was turned away at once.
const NOT_HEARD: [&str; 4] = [
    "The connection to the server ",
    "Unable to connect to the server: dial tcp ",
    "Unable to connect to the server: net/http: TLS handshake timeout",
    "Error from server (TooManyRequests): ",
];

/// A webhook that does not answer in time. The API server asks KubeVirt's before it does something, and has then done nothing. It
/// gives one ten seconds at the most.
const WEBHOOK: &str = "failed calling webhook";

/// Of a command that only reads: it is run anew as long as the API server does not answer.
pub(super) fn reading(command: impl Fn() -> Ran) -> Ran {
    repeated(command, |said| NO_ANSWER.iter().any(|words| said.contains(words)))
}

/// Of one that changes something to what it says, whether that was done before or not: likewise, and as long as a webhook does not
/// answer.
pub(super) fn setting(command: impl Fn() -> Ran) -> Ran {
    repeated(command, |said| said.contains(WEBHOOK) || NO_ANSWER.iter().any(|words| said.contains(words)))
}

/// Of one that may change something, which is not to be done twice: it is run anew as long as it is known that nothing was done.
pub(super) fn changing(command: impl Fn() -> Ran) -> Ran {
    repeated(command, |said| said.contains(WEBHOOK) || NOT_HEARD.iter().any(|words| said.contains(words)))
}

/// Whether what `kubectl` is told to do comes to the same when it is done twice. So does a patch that says what is to be, and not
/// one that says what is added or removed.
pub(super) fn is_repeatable(args: &[&str]) -> bool {
    match args {
        ["annotate" | "apply" | "get" | "label" | "logs", ..] => true,
        ["patch", patch @ ..] => !patch.windows(2).any(|pair| pair == ["--type", "json"]),
        _ => false,
    }
}

fn repeated(command: impl Fn() -> Ran, has_no_answer: impl Fn(&str) -> bool) -> Ran {
    let silent_since = OnceCell::new();
    // Once that is too long, what was said last is what it comes to.
    run_until_heard("no answer", Duration::MAX, command, |said| {
        has_no_answer(said) && silent_since.get_or_init(Instant::now).elapsed() <= ANSWER
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use super::*;
    use crate::process::run;

    /// A command that says this and fails when it is run first, and then succeeds.
    fn fails_once(words: &str, runs: &Cell<u32>) -> impl Fn() -> Ran {
        move || {
            runs.set(runs.get() + 1);
            let code = if runs.get() == 1 { "1" } else { "0" };
            run(Command::new("sh").args(["-c", r#"printf %s "$0" >&2; exit "$1""#, words, code]))
        }
    }

    #[track_caller]
    fn assert_read(words: &str, times: u32) {
        let runs = Cell::new(0);
        let ran = reading(fails_once(words, &runs));
        assert_eq!((runs.get(), ran.status.success()), (times, times > 1), "{words}");
    }

    #[track_caller]
    fn assert_changed(words: &str, times: u32) {
        let runs = Cell::new(0);
        let ran = changing(fails_once(words, &runs));
        assert_eq!((runs.get(), ran.status.success()), (times, times > 1), "{words}");
    }

    #[test]
    fn a_read_is_repeated_that_was_not_answered_and_no_other() {
        for words in [
            "E1130 12:00:00.1 7 memcache.go:265] \"Unhandled Error\" err=\"couldn't get current server API group list\"\n\
             The connection to the server 198.18.7.2:6443 was refused - did you specify the right host or port?",
            "Unable to connect to the server: net/http: TLS handshake timeout",
            "Unable to connect to the server: EOF",
            "error: unexpected error when reading response body. Please retry. Original error: http2: client connection lost",
            "Error from server: etcdserver: request timed out",
            "Error from server: etcdserver: leader changed",
            "Error from server: rpc error: code = Unavailable desc = transport is closing",
            "Error from server (Timeout): the server was unable to return a response in the time allotted",
            "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
        ] {
            assert_read(words, 2);
        }
        for words in [
            "error: the server doesn't have a resource type \"vmx\"",
            "error: You must be logged in to the server (Unauthorized)",
            "Error from server (Forbidden): pods is forbidden: User \"somebody\" cannot list resource \"pods\"",
            "Error from server (BadRequest): container \"agent\" in pod \"web\" is waiting to start: ContainerCreating",
            "Error from server: etcdserver: mvcc: database space exceeded",
        ] {
            assert_read(words, 1);
        }
    }

    /// Said by an API server whose etcd may have done it all the same.
    const PERHAPS: &str = "Error from server: etcdserver: request timed out";

    const NO_WEBHOOK: &str =
        "Error from server (InternalError): Internal error occurred: failed calling webhook \"vm.kubevirt.io\"";

    #[test]
    fn a_change_is_repeated_that_is_known_not_to_be_done_and_no_other() {
        assert_changed(NO_WEBHOOK, 2);
        assert_changed("Unable to connect to the server: net/http: TLS handshake timeout", 2);
        assert_changed(
            "The connection to the server 198.18.7.2:6443 was refused - did you specify the right host or port?",
            2,
        );
        assert_changed("Unable to connect to the server: EOF", 1);
        assert_changed(PERHAPS, 1);
    }

    #[test]
    fn what_comes_to_the_same_is_repeated_whether_it_was_done_or_not() {
        for (words, times) in [(NO_WEBHOOK, 2), (PERHAPS, 2), ("Error from server (Conflict): Apply failed", 1)] {
            let runs = Cell::new(0);
            setting(fails_once(words, &runs));
            assert_eq!(runs.get(), times, "{words}");
        }
    }

    #[test]
    fn what_adds_removes_or_makes_something_does_not_come_to_the_same() {
        let commands: [(&[&str], bool); 6] = [
            (&["patch", "vm", "web", "--type", "merge", "--patch", "{}"], true),
            (&["patch", "vm", "web", "--type", "json", "--patch", "[]"], false),
            (&["label", "vm", "web", "backup-"], true),
            (&["delete", "vmi", "web"], false),
            (&["create", "configmap", "policies"], false),
            (&["rollout", "restart", "daemonset/agent"], false),
        ];
        for (args, repeatable) in commands {
            assert_eq!(is_repeatable(args), repeatable, "{args:?}");
        }
    }
}
