//! Globs over the paths of a served tree.

use fast_glob::glob_match;
use remora_sdk::Invalid;

/// A glob that a policy's settings name. What can be known of every path that it covers is found out once: most paths are
/// told from that alone, and matching costs as much as all the rest of a decision.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    /// Of a glob that ends in `/**`, what stands before it: such a glob covers the folder itself too.
    folder: Option<usize>,
    /// What it covers begins with so many of its bytes.
    prefix: usize,
    /// What it covers ends with what stands from here on.
    suffix: usize,
}

impl Glob {
    /// The globs of a field, whose JSON Pointer is `field`; those that make no sense are told of.
    pub fn all(globs: Vec<String>, field: &str, invalid: &mut Invalid) -> Vec<Self> {
        let mut all = Vec::with_capacity(globs.len());
        for (n, glob) in globs.into_iter().enumerate() {
            if !glob.starts_with('/') {
                invalid.add(format!("{field}/{n}"), "it does not begin with /");
            } else if let Err(error) = fast_glob::validate(&glob) {
                invalid.add(format!("{field}/{n}"), error.to_string());
            } else if let Some(what) = misread(&glob) {
                invalid.add(format!("{field}/{n}"), what);
            } else {
                all.push(Self::new(glob));
            }
        }
        all
    }

    fn new(text: String) -> Self {
        let folder = text.ends_with("/**").then(|| text.len() - "/**".len());
        let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
        let prefix = text.find(special).unwrap_or(text.len()).min(folder.unwrap_or(text.len()));
        // A name after `**/` may follow on anything; an escape may stand for another byte.
        let suffix = text.rfind(|c| special(c) || c == '/').map_or(0, |last| last + 1);
        let suffix = if text.contains('\\') || text.contains('}') { text.len() } else { suffix };
        Self { text, folder, prefix, suffix }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it covers a path.
    pub fn covers(&self, path: &[u8]) -> bool {
        path.starts_with(&self.text.as_bytes()[..self.prefix]) && self.may_end(path) && self.matches(path)
    }

    /// Whether it covers a path or what is left of it below some folder: the same filesystem is served in more than one
    /// place.
    pub fn covers_anywhere(&self, path: &[u8]) -> bool {
        let prefix = &self.text.as_bytes()[..self.prefix];
        self.may_end(path)
            && (0..path.len().max(1))
                .any(|n| (n == 0 || path[n] == b'/') && path[n..].starts_with(prefix) && self.matches(&path[n..]))
    }

    fn may_end(&self, path: &[u8]) -> bool {
        path.ends_with(&self.text.as_bytes()[self.suffix..])
    }

    fn matches(&self, path: &[u8]) -> bool {
        let glob = self.text.as_bytes();
        glob_match(glob, path) || self.folder.is_some_and(|end| glob_match(&glob[..end], path))
    }
}

/// What is wrong with a glob that the matcher takes, and that covers less than whoever wrote it thinks.
fn misread(glob: &str) -> Option<&'static str> {
    if glob.len() > 1 && glob.ends_with('/') {
        return Some("no path ends in /: leave that out, or end it in /** for all that is below");
    }
    if glob.len() > 1 && glob.split('/').skip(1).any(|name| matches!(name, "" | "." | "..")) {
        return Some("no path has `.`, `..` or `//` in it");
    }
    let glob = glob.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = glob.get(at) {
        let mut length = 1;
        match byte {
            b'\\' => length = 2,
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b'*' => {
                length = glob[at..].iter().take_while(|byte| **byte == b'*').count();
                let ends = |byte: &u8| *byte == b'/' || depth > 0 && matches!(byte, b'{' | b',' | b'}');
                let whole = glob[..at].last().is_some_and(ends) && glob.get(at + length).is_none_or(ends);
                if length > 1 && !(length == 2 && whole) {
                    return Some("** stands for whole names: write /srv/** or /**/*.key, or a single *");
                }
            }
            _ => {}
        }
        at += length;
    }
    None
}
