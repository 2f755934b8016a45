//! A mover of points that misbehaves as its settings say; else it is the one of `sdk/examples/appliance`.

#[path = "../../../../../sdk/examples/appliance/src/appliance.rs"]
mod appliance;
#[path = "../../hostile/src/misbehave.rs"]
mod misbehave;

use std::cell::RefCell;
use std::collections::BTreeSet;

use appliance::Appliance;
use misbehave::misbehave;
use remora_sdk::objects::{Buffer, Class, Error, Request, Secret, Sink, log};
use remora_sdk::volumes::{Capabilities, Extent, Mover, NewPoint, Page, Point};
use remora_sdk::{Invalid, serde};

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
struct Settings {
    endpoint: String,
    /// What it does, where, such as `loop in list`; or several things, with commas between.
    #[serde(default)]
    misbehave: String,
}

struct Hostile {
    misbehave: String,
    endpoint: String,
    appliance: Appliance,
    /// What it was asked to commit since it was begun.
    asked: RefCell<BTreeSet<String>>,
}

remora_sdk::volumes!(Hostile);

impl Hostile {
    /// The one that behaves, once this function did what it is to do.
    fn after(&self, function: &str) -> &Appliance {
        misbehave(&self.misbehave, function);
        &self.appliance
    }

    fn is(&self, what: &str) -> bool {
        self.misbehave.split(", ").any(|how| how == what)
    }

    /// Logs what the server says, which was told a secret.
    fn gossip(&self) -> Result<(), Error> {
        let token = Secret::get("token")?;
        let request = Request::new("GET", format!("{}/points/none", self.endpoint));
        let said = request.secret("authorization", "Bearer ", &token).send()?.text();
        if !said.is_empty() {
            log::write(log::Level::Warn, &said);
        }
        Ok(())
    }
}

fn point(id: String, description: Vec<u8>) -> Point {
    let (vm_name, vm_namespace) = ("vm 1".into(), String::new());
    Point { id, vm_name, vm_namespace, time: 0, disks: Vec::new(), parent: None, description }
}

impl Mover for Hostile {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        misbehave(&settings.misbehave, "validate");
        Ok(())
    }

    fn open(settings: Settings) -> Result<(Self, Capabilities), Error> {
        misbehave(&settings.misbehave, "open");
        let Settings { endpoint, misbehave } = settings;
        let (appliance, mut can) = Appliance::open(appliance::Settings { endpoint: endpoint.clone(), clones: true })?;
        if misbehave == "take large pieces" {
            can.granularity = 1 << 20;
        }
        Ok((Self { misbehave, endpoint, appliance, asked: RefCell::default() }, can))
    }

    fn begin(&self, point: &NewPoint) -> Result<String, Error> {
        let token = self.after("begin").begin(point)?;
        self.asked.borrow_mut().remove(&point.id);
        if self.is("show what is begun") {
            self.appliance.commit(&point.id, &token)?;
        }
        Ok(token)
    }

    fn write(&self, id: &str, token: &str, disk: u32, offset: u64, data: &Buffer) -> Result<(), Error> {
        self.after("write").write(id, token, disk, offset, data)
    }

    fn zero(&self, id: &str, token: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
        self.after("zero").zero(id, token, disk, offset, len)
    }

    fn unchanged(&self, id: &str, token: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
        if self.is("forget what is unchanged") {
            return Ok(());
        }
        self.after("unchanged").unchanged(id, token, disk, offset, len)
    }

    fn commit(&self, id: &str, token: &str) -> Result<(), Error> {
        if !self.asked.borrow_mut().insert(id.into()) && self.is("refuse a second commit") {
            return Err(Error::new(Class::Conflict, "again", format!("{id} was to be committed before")));
        }
        self.after("commit").commit(id, token)
    }

    fn abort(&self, id: &str, token: &str) -> Result<(), Error> {
        if self.is("commit what is given up") {
            return self.appliance.commit(id, token);
        }
        self.after("abort").abort(id, token)
    }

    fn list(&self, vm: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        match self.misbehave.as_str() {
            "list for ever" => Ok(Page { points: Vec::new(), next: Some("more".into()) }),
            "list too much" => {
                Ok(Page { points: (0..2_000).map(|n| point(n.to_string(), Vec::new())).collect(), next: None })
            }
            "list gigantically" => Ok(Page { points: vec![point("gigantic".into(), vec![1; 100 << 20])], next: None }),
            _ => {
                let mut page = self.after("list").list(vm, token)?;
                if self.is("leave a point out") {
                    page.points.retain(|point| !point.id.ends_with("-0777"));
                }
                Ok(page)
            }
        }
    }

    fn extents(&self, point: &str, disk: u32, offset: u64, len: u64) -> Result<Vec<Extent>, Error> {
        let mut extents = self.after("extents").extents(point, disk, offset, len)?;
        match self.misbehave.as_str() {
            "begin extents late" => extents.iter_mut().take(1).for_each(|first| first.offset += 512),
            "end extents early" => drop(extents.pop()),
            "go on with extents" => extents.iter_mut().for_each(|extent| extent.len += len),
            "leave extents empty" => extents.iter_mut().for_each(|extent| extent.len = 0),
            _ => {}
        }
        Ok(extents)
    }

    fn read(&self, point: &str, disk: u32, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        if self.misbehave == "read nothing" {
            return Ok(());
        }
        self.after("read").read(point, disk, offset, len, into).map_err(|error| {
            let class = if self.is("call all permanent") { Class::Permanent } else { error.class };
            Error { class, ..error }
        })
    }

    fn delete(&self, point: &str) -> Result<(), Error> {
        if self.is("tell what the server says") {
            self.gossip()?;
        }
        self.after("delete").delete(point)
    }
}
