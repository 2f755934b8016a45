//! `remora-moving S3-URL PLUGIN-URL PLUGINS`: measures how long objects of 4 MiB take to a server, through remora's own client and
//! through a mover. One JSON object, the time of each object in nanoseconds. Of no use but to `bench`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the benchmark")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use remora_plugins::movers::Movers;
use remora_vault::{Access, Location, Plugins, client_of};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a small segment has.
const SIZE: usize = 4 << 20;
/// Objects of a round.
const OBJECTS: usize = 40;
/// An odd number, so that there is one in the middle.
const ROUNDS: usize = 5;
/// As a backup stores: so many at once, and through a mover one more.
const PUTS_AT_ONCE: usize = 2;
/// As a restore reads.
const GETS_AT_ONCE: usize = 16;

struct Measured {
    store: Arc<dyn ObjectStore>,
    through: Through,
}

/// What brings objects there.
enum Through {
    Own,
    Mover,
}

#[tokio::main]
async fn main() {
    let [own, plugin, folder] = std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap();
    let movers = Movers::new(folder, None);
    let plugins = Plugins::new(move |name, prefix| Ok(Arc::new(movers.open(name, prefix)?)));
    let measured = |url: &str, through| {
        let access = Access { plugins: Some(plugins.clone()), ..Access::default() };
        let store = client_of(&url.parse::<Location>().unwrap().reached_by(access)).unwrap();
        Measured { store, through }
    };
    let stores = [measured(&own, Through::Own), measured(&plugin, Through::Mover)];
    let mut random = vec![0; SIZE];
    fastrand::fill(&mut random);
    let bytes = Bytes::from(random);
    // Connections, and the mover's process.
    for store in &stores {
        puts(store, "warm", &bytes).await;
        gets(store, "warm", &bytes).await;
    }
    let (mut put, mut get) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        // In turns, each being the first as often, but for one.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let (mut putting, mut getting) = ([0; 2], [0; 2]);
        for n in order {
            putting[n] = puts(&stores[n], &name, &bytes).await;
        }
        for n in order {
            getting[n] = gets(&stores[n], &name, &bytes).await;
        }
        for Measured { store, .. } in &stores {
            let paths = (0..OBJECTS).map(|n| Ok(path(&name, n))).collect::<Vec<_>>();
            store.delete_stream(stream::iter(paths).boxed()).try_collect::<Vec<_>>().await.unwrap();
        }
        put.push(both(putting));
        get.push(both(getting));
    }
    println!("{}", json!({"put": put, "get": get}));
}

fn path(round: &str, n: usize) -> Path {
    Path::from(format!("{round}/{n}"))
}

fn both([own, plugin]: [u128; 2]) -> Value {
    json!({"own": each(own), "plugin": each(plugin)})
}

fn each(nanos: u128) -> u64 {
    u64::try_from(nanos / OBJECTS as u128).unwrap()
}

/// As a vault's uploads do it: each is a task, and through a mover one is looked at while others are sent.
async fn puts(Measured { store, through }: &Measured, round: &str, bytes: &Bytes) -> u128 {
    let started = Instant::now();
    let (sent, looked_at) = match through {
        Through::Own => (PUTS_AT_ONCE, 0),
        Through::Mover => (PUTS_AT_ONCE + 1, 1),
    };
    let [places, under_way] = [sent, sent + looked_at].map(|most| Arc::new(Semaphore::new(most)));
    let mut tasks = JoinSet::new();
    for n in 0..OBJECTS {
        let under_way = Arc::clone(&under_way).acquire_owned().await.unwrap();
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (store, path, payload) = (Arc::clone(store), path(round, n), PutPayload::from(bytes.clone()));
        let mut options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let held = match through {
            Through::Own => Some(place),
            Through::Mover => {
                options.extensions.insert(Arc::new(place));
                None
            }
        };
        tasks.spawn(async move {
            let _held = (under_way, held);
            store.put_opts(&path, payload, options).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    started.elapsed().as_nanos()
}

async fn gets(Measured { store, .. }: &Measured, round: &str, bytes: &Bytes) -> u128 {
    let started = Instant::now();
    // As a vault does it: a store behind a mover looks at an object first where it is asked otherwise.
    let all = 0..SIZE as u64;
    let gets = (0..OBJECTS).map(|n| {
        let range = all.clone();
        async move { store.get_ranges(&path(round, n), std::slice::from_ref(&range)).await }
    });
    let got = stream::iter(gets).buffer_unordered(GETS_AT_ONCE);
    let same = got.map(|got| got.unwrap()[0].len() == bytes.len()).all(|same| async move { same }).await;
    assert!(same);
    started.elapsed().as_nanos()
}
