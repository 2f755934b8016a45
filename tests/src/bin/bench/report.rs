//! The table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use remora_tests::{Must, run};

use crate::setting::Section;

/// One measurement.
pub(crate) struct Run {
    /// What is allowed, in words.
    pub(crate) allowed: String,
    /// What was measured, in words.
    pub(crate) measured: String,
    /// What was measured as a share of what is allowed: at most 1 is good.
    pub(crate) share: f64,
}

/// A line of the table: the median of several runs.
pub(crate) struct Row {
    what: &'static str,
    median: Run,
    /// The shares of all runs, the best first.
    shares: Vec<f64>,
    /// Where the time goes, told if the limit is missed.
    where_it_goes: &'static str,
}

impl Row {
    /// The median of the runs, of which there is an odd number.
    pub(crate) fn median(what: &'static str, where_it_goes: &'static str, mut runs: Vec<Run>) -> Self {
        runs.sort_by(|a, b| a.share.total_cmp(&b.share));
        let shares = runs.iter().map(|run| run.share).collect();
        let median = runs.swap_remove(runs.len() / 2);
        Self { what, median, shares, where_it_goes }
    }

    /// What needs no repetition.
    pub(crate) fn once(what: &'static str, where_it_goes: &'static str, run: Run) -> Self {
        Self::median(what, where_it_goes, vec![run])
    }

    fn is_good(&self) -> bool {
        self.median.share <= 1.0
    }

    fn verdict(&self) -> &'static str {
        if self.is_good() { "ok" } else { "**missed**" }
    }

    fn ratio(&self) -> String {
        let mut text = format!("{:.2}", self.median.share);
        if let (Some(best), Some(worst), 2..) = (self.shares.first(), self.shares.last(), self.shares.len()) {
            let _ = write!(text, " ({best:.2}–{worst:.2})");
        }
        text
    }

    /// For the terminal.
    pub(crate) fn line(&self) -> String {
        let Run { allowed, measured, .. } = &self.median;
        format!("{}: {measured}; allowed: {allowed}; ratio {}: {}", self.what, self.ratio(), self.verdict())
    }
}

/// Writes `docs/benchmarks.md` of this checkout.
pub(crate) fn write(rows: &[Row], sections: &[Section], names: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().must("find the checkout").join("docs/benchmarks.md");
    let mut text = format!(
        "# Benchmarks\n\nWritten by `make bench`; `bench NAME` measures one of `{}`. Every limit is measured in the same \
         run as what it limits. *Ratio* is what was measured divided by what is allowed, so 1 is just good enough; of \
         several runs it is the median (best–worst).\n\n",
        names.join("`, `"),
    );
    let _ = writeln!(text, "{}\n", machine());
    text.push_str("| What | Allowed | Measured | Ratio | |\n|---|---|---|---|---|\n");
    for row in rows {
        let Run { allowed, measured, .. } = &row.median;
        let _ = writeln!(text, "| {} | {allowed} | {measured} | {} | {} |", row.what, row.ratio(), row.verdict());
    }
    let missed: Vec<_> = rows.iter().filter(|row| !row.is_good()).collect();
    text.push_str("\n## Missed\n\n");
    if missed.is_empty() {
        text.push_str("Nothing.\n");
    }
    for row in missed {
        let _ = writeln!(text, "- **{}**: {}", row.what, row.where_it_goes);
    }
    for Section { title, text: told } in sections {
        let _ = write!(text, "\n## {title}\n\n{told}");
    }
    fs::write(&path, text).must(format_args!("write {}", path.display()));
    println!("{} is written", path.display());
}

/// What it ran on.
fn machine() -> String {
    let said = |program: &str, args: &[&str]| run(Command::new(program).args(args)).ok().text().to_owned();
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).must(format_args!("read {file}"));
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or_default();
    format!(
        "{date}: {cores} cores ({model}), {memory:.0} GiB of memory, Linux {kernel}, {qemu}, libvirt {libvirt}, \
         {guestfish}, {rustc}. The appliance is emulated.",
        date = said("date", &["--utc", "+%Y-%m-%d"]),
        cores = crate::measure::cores(),
        model = field("/proc/cpuinfo", "model name"),
        memory = memory / f64::from(1 << 20),
        kernel = said("uname", &["-r"]).split('-').next().unwrap_or_default(),
        qemu = first_line(said("qemu-system-x86_64", &["--version"])),
        libvirt = first_line(said("virsh", &["--version"])),
        guestfish = first_line(said("guestfish", &["--version"])),
        rustc = first_line(said("rustc", &["--version"])),
    )
}
