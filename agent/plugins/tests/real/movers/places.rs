//! Whoever waits until an object is sent need not wait until it is looked at.

use std::fs;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};
use remora_plugins::movers::MoverStore;
use remora_tests::PlainStore;
use remora_tests::plain::{Lie, TOKEN};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::hostile::folder;
use super::network::ours;
use super::{Folder, example};
use crate::components::FOR_EVER;

fn store(folder: &Folder, server: &PlainStore) -> MoverStore {
    let address = server.address();
    fs::write(folder.path().join("token"), TOKEN).unwrap();
    let lines = format!(
        "settings: {{endpoint: 'http://{address}'}}\nsecrets: {{token: token}}\n\
         network: {{allow: ['{address}'], addresses: [127.0.0.1], plainHttp: true}}\n"
    );
    folder.mover("plain", &fs::read(example("plain")).unwrap(), &lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_with_a_put_is_let_go_of_once_the_object_is_sent_and_the_put_ends_once_it_was_looked_at() {
    let (folder, server) = (folder(), PlainStore::start());
    let store = store(&folder, &server);
    for key in ["t/right", "t/wrong"] {
        server.lie(Lie::ChangeBytes, "t/wrong");
        let (place, given_back) = oneshot::channel::<()>();
        let mut options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        options.extensions.insert(Arc::new(place));
        server.hold_reads();
        let store = store.clone();
        let put =
            tokio::spawn(async move { store.put_opts(&Path::from(key), vec![7_u8; 1 << 20].into(), options).await });
        timeout(FOR_EVER, given_back).await.expect("the place is kept").unwrap_err();
        // Nothing is read yet, so it cannot have been looked at.
        assert!(!put.is_finished());
        server.release_reads();
        let put = timeout(FOR_EVER, put).await.expect("it never ends").unwrap();
        match key {
            "t/right" => drop(put.unwrap()),
            _ => assert!(ours(&put.unwrap_err()).chain().contains("other bytes are there")),
        }
    }
}
