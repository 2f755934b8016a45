//! What remora asks of an API server.

use std::collections::{BTreeMap, BTreeSet};

use crate::api_server::{ApiServer, Mark, Request};

/// The requests of remora's programs between two marks.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Of the controller.
    pub controller: usize,
    /// Of all agents.
    pub agents: usize,
    /// By program, verb and resource.
    pub by_kind: BTreeMap<(String, String, String), usize>,
    /// What was written, how often, and by whom: the controller, or the agent of a node.
    pub written: BTreeMap<String, (usize, BTreeSet<String>)>,
}

impl Load {
    /// Reads it from the audit log.
    pub fn between(api: &ApiServer, from: Mark, to: Mark) -> Self {
        let mut load = Self::default();
        api.asked(from, to, |request| load.add(request));
        load
    }

    fn add(&mut self, request: Request) {
        match request.user.as_str() {
            "remora-controller" => self.controller += 1,
            "remora-agent" => self.agents += 1,
            _ => return,
        }
        // What was refused has changed nothing.
        if request.writes() && request.code < 300 && !request.name.is_empty() {
            let resource = request.resource.split('/').next().unwrap_or_default();
            let object = format!("{resource} {}/{}", request.namespace, request.name);
            let (times, who) = self.written.entry(object).or_default();
            *times += 1;
            who.insert(format!("{}{}", request.user, request.node));
        }
        *self.by_kind.entry((request.user, request.verb, request.resource)).or_default() += 1;
    }

    /// The most that any object was written, but for the Lease, which is there to be written.
    pub fn hottest(&self) -> Option<(&String, usize)> {
        let objects = self.written.iter().filter(|(object, _)| !object.starts_with("leases "));
        objects.map(|(object, (times, _))| (object, *times)).max_by_key(|(_, times)| *times)
    }

    /// The objects that more than two have written, or two of which none is the controller.
    pub fn crowded(&self) -> Vec<&String> {
        let crowd = |who: &BTreeSet<String>| who.iter().filter(|one| *one != "remora-controller").count() > 1;
        self.written.iter().filter(|(_, (_, who))| crowd(who)).map(|(object, _)| object).collect()
    }
}
