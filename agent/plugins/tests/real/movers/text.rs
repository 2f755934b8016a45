//! Movers made of text: they do what no compiler makes of Rust, or trap in what the SDK writes itself.

use std::fmt::Write;
use std::fs;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use remora_core::point::Decision;
use remora_core::ports::Mover;
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ErrorKind, VmName};
use remora_plugins::movers::VolumeMover;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, TypeDefKind, WorldItem};

use super::hostile::folder;
use super::network::ours;
use super::objects::{create, get};
use super::{Folder, example};
use crate::components::{MEMORY, component, wit};

/// A function of a mover's interface, and what it does.
type Written<'a> = (&'a str, &'a str);

/// A mover of a world, with these functions; the others trap. `$new-NAME` makes a handle of a resource. At 0 are zeros: an empty
/// text, an empty list, or "that went well, and gave nothing"; what is to be given may be written at 64.
fn mover(world: &str, functions: &[Written<'_>]) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit().join("mover/0.1.0")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let exported = resolve.worlds[world].exports.values().find_map(|item| match item {
        WorldItem::Interface { id, .. } => Some(*id),
        _ => None,
    });
    let interface = &resolve.interfaces[exported.unwrap()];
    let name = resolve.id_of(exported.unwrap()).unwrap();
    let mut text = String::from("(module ");
    for (resource, id) in &interface.types {
        if matches!(resolve.types[*id].kind, TypeDefKind::Resource) {
            let new = format!("(func $new-{resource} (param i32) (result i32))");
            write!(text, r#"(import "[export]{name}" "[resource-new]{resource}" {new})"#).unwrap();
        }
    }
    // And a table, for those that want more of it.
    write!(text, "{MEMORY} (table $t 1 funcref)").unwrap();
    for (function, shape) in &interface.functions {
        let does = functions.iter().find(|(written, _)| written == function).map_or("unreachable", |(_, does)| *does);
        let signature = resolve.wasm_signature(AbiVariant::GuestExport, shape);
        let (takes, gives) = (types(&signature.params), types(&signature.results));
        write!(text, r#"(func (export "{name}#{function}") (param{takes}) (result{gives}) (local $made i32) {does})"#)
            .unwrap();
    }
    text.push(')');
    component(&wat::parse_str(text).unwrap(), &resolve, world)
}

fn types(flat: &[WasmType]) -> String {
    let name = |flat: &WasmType| match flat {
        WasmType::I64 | WasmType::PointerOrI64 => " i64",
        WasmType::F32 => " f32",
        WasmType::F64 => " f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => " i32",
    };
    flat.iter().map(name).collect()
}

/// Nothing, or something empty, and that it went well.
const FINE: &str = "(i32.const 0)";

/// A handle of its own, and that it went well.
fn handle(resource: &str) -> String {
    format!("(i32.store (i32.const 72) (call $new-{resource} (i32.const 1))) (i32.const 64)")
}

/// A store of objects that can be opened, and does uploads in three parts.
const OBJECTS: &str = "(i32.store (i32.const 72) (call $new-session (i32.const 1)))
    (i32.store8 (i32.const 88) (i32.const 1)) (i32.store (i32.const 104) (i32.const 3)) (i32.const 64)";

/// A store of points that can be opened, and takes pieces of 512 bytes to 1 MiB.
const POINTS: &str = "(i32.store (i32.const 72) (call $new-store (i32.const 1)))
    (i64.store (i32.const 88) (i64.const 512)) (i64.store (i32.const 96) (i64.const 1048576)) (i32.const 64)";

fn points(folder: &Folder, component: &[u8]) -> VolumeMover {
    folder.write("points", component, "volume: {disksInTheClear: ['vm*']}\n");
    folder.movers.open_points("points").unwrap_or_else(|e| panic!("{}", e.chain()))
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_of_tables_and_of_handles_cost_their_own_call_while_another_mover_is_used() {
    let folder = folder();
    let good = folder.mover("good", &fs::read(example("hostile")).unwrap(), "");
    create(&good, "t/good", "bytes").await.unwrap();
    let tables = "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more)) (i32.const 0)";
    let handles = |resource: &str| {
        format!(
            "(loop $more
                (drop (call $new-{resource} (i32.const 1)))
                (local.set $made (i32.add (local.get $made) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $made) (i32.const 60000))))
             (i32.const 0)"
        )
    };
    for (of_session, of_store, said) in [
        (tables.to_owned(), tables.to_owned(), "growing table"),
        (handles("session"), handles("store"), "store handle limit exceeded"),
    ] {
        let objects = folder.mover("objects", &mover("object-store", &[("validate", &of_session)]), "");
        let points = points(&folder, &mover("volume-store", &[("validate", &of_store)]));
        let path = Path::from("t/x");
        let (attack, other, used) = tokio::join!(objects.head(&path), points.list(None), get(&good, "t/good"));
        assert_eq!(used.unwrap(), "bytes", "{said}");
        let attack = attack.unwrap_err();
        for error in [ours(&attack), &other.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{said}: {}", error.chain());
            assert!(error.chain().contains("`validate` failed") && error.chain().contains(said), "{}", error.chain());
        }
        assert!(objects.process().is_some() && points.process().is_some(), "{said}");
    }
}

/// What the SDK writes for everybody: an upload, or a point that is written, has a token, by which another instance
/// goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn traps_in_token_and_resume_are_contained() {
    let folder = folder();
    let upload = handle("upload");
    let begun = [("validate", FINE), ("open", OBJECTS), ("[method]session.multipart", upload.as_str())];
    let store = folder.mover("objects", &mover("object-store", &begun), "");
    let error = store.put_multipart(&Path::from("t/x")).await.unwrap_err();
    assert!(ours(&error).chain().contains("`multipart` failed: it trapped"), "{}", ours(&error).chain());
    let told = [&begun[..], &[("[method]upload.token", FINE)]].concat();
    let store = folder.mover("objects", &mover("object-store", &told), "");
    let mut upload = store.put_multipart(&Path::from("t/x")).await.unwrap();
    let error = upload.put_part("part".into()).await.unwrap_err();
    assert!(ours(&error).chain().contains("`part` failed: it trapped"), "{}", ours(&error).chain());
    assert!(store.process().is_some());

    let writer = handle("writer");
    let begun =
        [("validate", FINE), ("open", POINTS), ("[method]store.list", FINE), ("[method]store.begin", writer.as_str())];
    let told = [&begun[..], &[("[method]writer.token", FINE)]].concat();
    for (functions, said) in [(&begun[..], "`begin` failed: it trapped"), (&told[..], "`commit` failed: it trapped")] {
        let points = points(&folder, &mover("volume-store", functions));
        let new = new_point(&VmName::new("vm 1").unwrap(), None, vec![new_disk("vda", BLOCK_SIZE, Decision::Full)]);
        let Err(error) = points.begin(new).await else { panic!("it was begun") };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains(said), "{}", error.chain());
        assert!(points.process().is_some(), "{said}");
    }
}
