//! Questions that nobody thought of, the same ones again for the same seed.

use jiff::Timestamp;
use remora_core::policy::{Access, Action, Approval, PastRun, Question, Subject, VmFacts};
use remora_core::retention::Candidate;
use remora_core::{PointId, VmName};

/// What names, labels and paths are made of: what is usual, and what trips up those who think that all text is.
const PIECES: [&str; 16] =
    ["a", "db", "web-1", "prod", "*", "..", "%", "{{", "[", "\\", "\u{0}", "ž", "日本", "\u{202e}", "🦀", " \t\n"];

/// Labels that the built-in policies look at are among them.
const KEYS: [&str; 6] = ["backup", "env", "remora.dev/owner", "remora.dev/owner-group", "", "a/b"];

/// Instants, in seconds, near which clocks are changed or numbers end.
const EDGES: [i64; 8] =
    [0, -1, 1_774_746_000, 1_792_890_000, 951_782_400, 4_102_444_799, 2_147_483_648, 32_503_680_000];

/// The question what becomes of the points of a VM.
#[derive(Clone, Debug)]
pub(super) struct Points {
    pub(super) vm: VmFacts,
    pub(super) all: Vec<Candidate>,
    pub(super) now: Timestamp,
}

/// A source of questions.
pub(super) struct Random(fastrand::Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.usize(..from.len())]
    }

    /// Text of a few pieces; seldom of many.
    fn text(&mut self) -> String {
        let pieces = if self.0.u8(..) == 0 { 1_000 } else { self.0.usize(..4) };
        (0..pieces).map(|_| self.pick(&PIECES)).collect()
    }

    fn texts(&mut self, most: usize) -> Vec<String> {
        (0..self.0.usize(..=most)).map(|_| self.text()).collect()
    }

    fn time(&mut self) -> Timestamp {
        let seconds = if self.0.u8(..8) == 0 { self.pick(&EDGES) } else { self.0.i64(0..4_102_444_800) };
        Timestamp::from_second(seconds).expect("all of these are within the years that jiff has")
    }

    fn later(&mut self, time: Timestamp) -> Timestamp {
        let days = self.0.i64(0..400);
        time.checked_add(jiff::SignedDuration::from_hours(days * self.0.i64(0..48))).unwrap_or(time)
    }

    pub(super) fn vms(&mut self, count: usize) -> Vec<VmFacts> {
        (0..count).map(|_| self.vm()).collect()
    }

    pub(super) fn schedules(&mut self, count: usize) -> Vec<Question> {
        (0..count).map(|_| self.schedule()).collect()
    }

    /// About what somebody lists in a point, then somebody else in another one, and so on: some have all in common but the file.
    pub(super) fn listings(&mut self, count: usize) -> Vec<Access> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let files = self.0.usize(1..=8).min(count - all.len());
            all.extend(self.listing(files));
        }
        all
    }

    /// About so many files that somebody lists in a point.
    pub(super) fn listing(&mut self, files: usize) -> Vec<Access> {
        let first = self.access();
        (0..files).map(|_| Access { action: self.action(), path: self.path(), ..first.clone() }).collect()
    }

    fn vm(&mut self) -> VmFacts {
        let name = self.text().replace('\0', "-");
        let name = VmName::new(format!("{name}vm")).expect("it is not empty and has no NUL");
        let labels = (0..self.0.usize(..6)).map(|_| (self.pick(&KEYS).to_owned(), self.text())).collect();
        VmFacts { name, namespace: self.text(), uid: self.text(), labels }
    }

    fn schedule(&mut self) -> Question {
        let after = self.time();
        let now = self.later(after);
        let run = |random: &mut Self| PastRun {
            time: random.time(),
            changed: random.0.u64(..) >> random.0.u32(..64),
            size: random.0.u64(..) >> random.0.u32(..64),
            seconds: random.0.u64(..) >> random.0.u32(..64),
        };
        let runs = (0..self.0.usize(..40)).map(|_| run(self)).collect();
        Question { vm: self.vm(), now, after, seed: self.0.u64(..), runs }
    }

    pub(super) fn points(&mut self, most: usize) -> Points {
        let count = self.0.usize(1..=most);
        let start = self.time();
        let mut time = start;
        let points = (1..=count as u64).map(|n| {
            // Clocks are set back at times.
            time = if self.0.u8(..20) == 0 { self.time() } else { self.later(time) };
            let held = (self.0.u8(..10) == 0).then(|| self.time());
            Candidate { point: PointId::new("0123456789abcdef", n).expect("the digits are right"), time, held }
        });
        let points = points.collect();
        Points { vm: self.vm(), all: points, now: self.later(start) }
    }

    fn access(&mut self) -> Access {
        let now = self.time();
        let approval = |random: &mut Self| Approval {
            user: random.text(),
            groups: random.texts(3),
            granted: random.time(),
            expires: random.later(now),
        };
        Access {
            subject: Subject { user: self.text(), groups: self.texts(5), grants: self.texts(5) },
            action: self.action(),
            vm: self.vm(),
            point: "0123456789abcdef-1".into(),
            point_time: self.time(),
            path: self.path(),
            now,
            approvals: (0..self.0.usize(..3)).map(|_| approval(self)).collect(),
        }
    }

    fn action(&mut self) -> Action {
        self.pick(&[Action::List, Action::Stat, Action::Read])
    }

    /// Absolute, of names that are any bytes but `/` and NUL.
    fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        for _ in 0..self.0.usize(1..12) {
            path.push(b'/');
            match self.0.u8(..4) {
                0 => path.extend((0..self.0.usize(1..20)).map(|_| self.0.u8(1..=255)).filter(|byte| *byte != b'/')),
                1 => path.extend(self.pick(&["root", "srv", "hr", "etc", "home", "vda", "1", "x.key"]).bytes()),
                _ => path.extend(self.text().bytes().filter(|byte| !matches!(byte, b'/' | 0))),
            }
            if path.ends_with(b"/") || path.ends_with(b"/.") || path.ends_with(b"/..") {
                path.push(b'x');
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_questions_and_another_one_others() {
        let ask = |seed| {
            let mut random = Random::new(seed);
            let points: Vec<_> = (0..50).map(|_| random.points(5)).collect();
            format!("{:?}", (random.listings(50), random.schedules(50), points))
        };
        assert_eq!(ask(7), ask(7));
        assert_ne!(ask(7), ask(8));
    }

    #[test]
    fn what_is_asked_keeps_to_what_wit_promises() {
        let mut random = Random::new(1);
        for _ in 0..2_000 {
            let asked = random.schedule();
            assert!(asked.after <= asked.now, "{asked:?}");
            let access = random.listings(1).remove(0);
            let names: Vec<_> = access.path.split(|byte| *byte == b'/').collect();
            assert!(names[0].is_empty() && names.len() > 1, "{access:?}");
            assert!(names[1..].iter().all(|name| !matches!(*name, b"" | b"." | b"..") && !name.contains(&0)));
        }
    }
}
