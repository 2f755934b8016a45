//! The mover: which requests it makes, and what their answers mean.

use remora_sdk::objects::{Buffer, Class, Error, Request, Response, Secret, Sink, escaped, whole};
use remora_sdk::volumes::{Capabilities, Content, Disk, Extent, Mover, NewPoint, Page, Point};
use remora_sdk::{Invalid, serde};

/// What one request carries of a description.
const INLINE: usize = 64 << 10;

/// A description has at most so much.
const DESCRIPTION: u32 = 1 << 20;

/// The appliance moves disks in pieces of this.
const TRANSFER: u64 = 4 << 20;

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) endpoint: String,
    /// Whether the appliance clones points; else each is written whole.
    #[serde(default = "yes")]
    pub(crate) clones: bool,
}

const fn yes() -> bool {
    true
}

pub(crate) struct Appliance {
    endpoint: String,
    token: Secret,
}

impl Mover for Appliance {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        let known = ["http://", "https://"].iter().any(|scheme| settings.endpoint.starts_with(scheme));
        if known { Ok(()) } else { Err(Invalid::field("/endpoint", "write it as https://host:port")) }
    }

    fn open(settings: Settings) -> Result<(Self, Capabilities), Error> {
        let can = Capabilities { incremental: settings.clones, granularity: 4_096, max_transfer: TRANSFER };
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        Ok((Self { endpoint, token: Secret::get("token")? }, can))
    }

    fn begin(&self, point: &NewPoint) -> Result<String, Error> {
        let disks = point.disks.iter().map(|disk| format!("{}:{}", disk.name, disk.size)).collect::<Vec<_>>().join(",");
        let query = format!(
            "?vm={}&namespace={}&time={}&parent={}&disks={}",
            escaped(&point.vm_name, ""),
            escaped(&point.vm_namespace, ""),
            point.time,
            escaped(point.parent.as_deref().unwrap_or_default(), ""),
            escaped(&disks, "")
        );
        done("beginning", &point.id, self.request("POST", &point.id, &query))?;
        for (n, piece) in point.description.chunks(INLINE).enumerate() {
            let at = format!("/description?at={}", n * INLINE);
            done("describing", &point.id, self.request("PUT", &point.id, &at).inline(piece))?;
        }
        // The appliance knows a point by its id alone.
        Ok(String::new())
    }

    fn write(&self, id: &str, _: &str, disk: u32, offset: u64, data: &Buffer) -> Result<(), Error> {
        done("writing", id, self.request("PUT", id, &format!("/disks/{disk}?at={offset}")).buffer(data)).map(drop)
    }

    fn zero(&self, id: &str, _: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
        let path = format!("/disks/{disk}?zero={offset}&len={len}");
        done("writing", id, self.request("POST", id, &path)).map(drop)
    }

    fn unchanged(&self, id: &str, _: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
        let path = format!("/disks/{disk}?unchanged={offset}&len={len}");
        done("cloning", id, self.request("POST", id, &path)).map(drop)
    }

    fn commit(&self, id: &str, _: &str) -> Result<(), Error> {
        done("committing", id, self.request("POST", id, "/commit")).map(drop)
    }

    fn abort(&self, id: &str, _: &str) -> Result<(), Error> {
        self.delete(id)
    }

    fn list(&self, vm: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        let vm = vm.map(|vm| format!("&vm={}", escaped(vm, ""))).unwrap_or_default();
        let query = format!("?after={}{vm}", escaped(token.unwrap_or_default(), ""));
        let answer = done("listing", "the points", self.request("GET", "", &query).receive(1 << 20))?;
        let text = answer.text();
        let mut lines = text.lines();
        // The first line is where the next page begins; empty after the last one.
        let next = lines.next().filter(|next| !next.is_empty()).map(Into::into);
        let points = lines.map(|line| self.point(line)).collect::<Result<_, _>>()?;
        Ok(Page { points, next })
    }

    fn extents(&self, point: &str, disk: u32, offset: u64, len: u64) -> Result<Vec<Extent>, Error> {
        let path = format!("/disks/{disk}/extents?at={offset}&len={len}");
        let answer = done("mapping", point, self.request("GET", point, &path).receive(1 << 20))?;
        let extent = |line: &str| {
            let mut words = line.split(' ');
            let (offset, len) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let content = if words.next()? == "zero" { Content::Zero } else { Content::Data };
            Some(Extent { offset, len, content })
        };
        answer.text().lines().map(|line| extent(line).ok_or_else(unreadable)).collect()
    }

    fn read(&self, point: &str, disk: u32, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        let path = format!("/disks/{disk}?at={offset}&len={len}");
        done("reading", point, self.request("GET", point, &path).into_sink(into))?;
        whole(point, offset, len, into)
    }

    fn delete(&self, point: &str) -> Result<(), Error> {
        match done("deleting", point, self.request("DELETE", point, "")) {
            Err(error) if error.class != Class::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Appliance {
    /// About a point; about all of them, if it has no name.
    fn request<'a>(&'a self, method: &'a str, point: &str, rest: &str) -> Request<'a> {
        let point = if point.is_empty() { String::new() } else { format!("/{point}") };
        let url = format!("{}/points{point}{rest}", self.endpoint);
        Request::new(method, url).secret("authorization", "Bearer ", &self.token)
    }

    /// A line of the listing: id, time, parent or a dash, disks or a dash, the VM's namespace in brackets, its name.
    fn point(&self, line: &str) -> Result<Point, Error> {
        let read = || {
            let mut words = line.splitn(5, ' ');
            let (id, time) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            let parent = Some(words.next()?).filter(|parent| *parent != "-").map(Into::into);
            let disks = Some(words.next()?).filter(|disks| *disks != "-").unwrap_or_default();
            let disk = |text: &str| {
                let (name, size) = text.split_once(':')?;
                Some(Disk { name: name.into(), size: size.parse().ok()? })
            };
            let disks = disks.split(',').filter(|text| !text.is_empty()).map(disk).collect::<Option<_>>()?;
            let (namespace, name) = words.next()?.strip_prefix('[')?.split_once(']')?;
            Some((id, time, parent, disks, namespace.to_owned(), name.to_owned()))
        };
        let (id, time, parent, disks, vm_namespace, vm_name) = read().ok_or_else(unreadable)?;
        let asked = self.request("GET", &id, "/description").receive(DESCRIPTION);
        let description = done("reading the description of", &id, asked)?.body;
        Ok(Point { id, vm_name, vm_namespace, time, disks, parent, description })
    }
}

fn done(doing: &str, what: &str, request: Request<'_>) -> Result<Response, Error> {
    let answer = request.send()?;
    if answer.is_success() {
        return Ok(answer);
    }
    Err(Error::of_status(&answer, format!("{doing} {what}: the appliance answers {}", answer.status)))
}

fn unreadable() -> Error {
    Error::new(Class::Retryable, "unreadable", "an answer of the appliance cannot be read")
}
