//! A guest without an agent under each wish. (Agents that hang or refuse stand among the source's tests.)

use remora_tests::{DiskSpec, Lab, MIB};
use serde_json::Value;

use super::{Protected, text};

#[test]
fn without_an_agent_each_wish_has_its_outcome() {
    let domain = Lab::shared().domain("cli agentless").disk(DiskSpec::qcow2("vda", 64 * MIB)).define();
    domain.start();
    let vm = Protected::new(domain);
    vm.domain.write("vda", 0x11, 0, MIB);
    let name = vm.domain.name();

    let ran = vm.remora.fails(["backup", name, "--quiesce=required", "-o", "json"], 11, "");
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "refused");
    let message = text(&error["error"]["message"]);
    assert!(
        message.contains("the guest's filesystems could not be frozen") && message.contains("guest agent"),
        "{message}"
    );
    assert!(text(&error["error"]["advice"]).contains("--quiesce=preferred"), "{error}");
    vm.assert_nothing_left();
    assert!(vm.checkpoints().is_empty());
    assert_eq!(vm.domain.state(), "running", "nothing is held");
    vm.remora.fails(["points", name], 3, "no point");

    for (wishes, quiesced, says) in [
        (&["--quiesce=preferred"][..], "failed", "could not be frozen"),
        (&[], "failed", "could not be frozen"),
        (&["--quiesce=never"], "skipped", ""),
    ] {
        let truth = vm.domain.truth("vda");
        let ran = vm.remora.ok([&["backup", name], wishes].concat());
        match says {
            "" => assert_eq!(ran.stderr.matches("frozen").count(), 0, "{ran:?}"),
            says => assert!(ran.stderr.contains(says) && ran.stderr.contains("crash-consistent"), "{ran:?}"),
        }
        let listed = vm.remora.json(["points", name]);
        let newest = listed.as_array().unwrap().last().unwrap();
        let shown = vm.remora.json(["show", text(&newest["point"])]);
        assert_eq!(shown["quiesced"], quiesced, "{wishes:?}");
        let taken = super::Taken { report: newest.clone(), shown, truths: vec![("vda".into(), truth)] };
        vm.assert_restores(&taken);
        vm.assert_nothing_left();
    }
}
