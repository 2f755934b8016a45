//! Input that makes no sense: each time the documented exit code, what was wrong with what, and what to do.

use super::*;

/// A point that no repository has.
const UNKNOWN: &str = "0011223344556677-1";

/// Every command that takes a point, with this one.
fn commands_of(point: &str, to: &Path) -> Vec<Vec<String>> {
    let to = to.to_str().unwrap();
    let path = format!("{point}:/vda/1/etc");
    let lines: [&[&str]; 8] = [
        &["show", point],
        &["verify", point],
        &["diff", point, point],
        &["restore", point, "--to", to],
        &["restore", point, "--disk", "vda", "--to", to],
        &["export", point, "--disk", "vda", "--format", "qcow2", "--to", to],
        &["mount", point, to],
        &["cp", &path, to],
    ];
    lines.iter().map(|line| line.iter().map(|&word| word.to_owned()).collect()).collect()
}

#[test]
fn a_wrong_passphrase_is_called_that() {
    let remora = Remora::init_with_passphrase(Lab::shared()).with("REMORA_PASSPHRASE", "correct horse battery stable");
    for args in [&["points"][..], &["backup", "any"], &["verify"], &["repo", "status"]] {
        assert_refused(&remora.run(args), 5, &["passphrase opens none", "REMORA_PASSPHRASE"]);
    }
    let error: Value = serde_json::from_str(&remora.run(["points", "-o", "json"]).stderr).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exit"]), (&"wrong-key".into(), &5.into()), "{error}");
    assert!(error["error"]["message"].is_string() && error["error"]["advice"].is_string(), "{error}");
}

#[test]
fn a_passphrase_that_is_not_there_or_empty_is_asked_for_in_words() {
    let lab = Lab::shared();
    let remora = Remora::init_with_passphrase(lab).without("REMORA_PASSPHRASE");
    assert_refused(&remora.run(["points"]), 2, &["no terminal", "--passphrase-file"]);
    let file = lab.scratch("passphrase").join("file");
    for empty in ["", "\n"] {
        fs::write(&file, empty).unwrap();
        let ran = remora.run(["points", "--passphrase-file", file.to_str().unwrap()]);
        assert_refused(&ran, 2, &["passphrase is empty"]);
    }
    let missing = remora.with("REMORA_PASSPHRASE_FILE", file.with_file_name("no such file")).run(["points"]);
    assert_eq!(missing.code(), 3, "{missing:?}");
    assert!(missing.stderr.contains("no such file"), "{missing:?}");
}

#[test]
fn what_is_unknown_is_named() {
    let lab = Lab::shared();
    let remora = Remora::init(lab);
    assert_refused(&remora.run(["backup", "nobody at home"]), 3, &["nobody at home"]);
    assert_refused(&remora.run(["points", "nobody at home"]), 3, &["nobody at home", "remora points"]);
    let to = lab.scratch("unknown").join("to");
    for args in commands_of(UNKNOWN, &to) {
        assert_refused(&remora.run(&args), 3, &[UNKNOWN, "remora points"]);
        assert!(!to.exists(), "{args:?} made something");
    }
}

#[test]
fn a_malformed_point_is_bad_usage() {
    let lab = Lab::shared();
    let to = lab.scratch("malformed").join("to");
    // No repository, so that nothing but the name can be what is wrong.
    let remora = Remora::new(lab, "/nonexistent");
    for point in [
        "banana",
        "",
        "-",
        "0011223344556677",
        "0011223344556677-",
        "0011223344556677-0x1",
        "../../etc/passwd-1",
        "0011223344556677-99999999999999999999",
        "00112233445566GG-1",
        "0011223344556677-1\n",
        "é-1",
    ] {
        for args in commands_of(point, &to) {
            let ran = remora.run(&args);
            assert_eq!(ran.code(), 2, "{ran:?}");
            assert!(ran.stderr.contains("error: ") && ran.stdout.is_empty(), "{ran:?}");
        }
    }
    assert!(!to.exists());
}

#[test]
fn a_repository_of_a_newer_format_is_left_alone() {
    let remora = Remora::init(Lab::shared());
    let descriptor = remora.repository().join("remora.json");
    let newer = fs::read_to_string(&descriptor).unwrap().replace("\"format\": 1", "\"format\": 2");
    assert!(newer.contains("\"format\": 2"));
    fs::write(&descriptor, &newer).unwrap();
    let before = objects(&remora.repository());
    for args in [&["points"][..], &["backup", "any"], &["verify"], &["show", UNKNOWN], &["repo", "status"]] {
        assert_refused(&remora.run(args), 6, &["format 2", "version of remora"]);
    }
    assert_refused(&remora.run(["repo", "init"]), 4, &["repository already"]);
    assert_eq!(fs::read_to_string(&descriptor).unwrap(), newer);
    assert_eq!(objects(&remora.repository()), before);
}

#[test]
fn a_path_that_is_no_repository_is_called_that_and_left_alone() {
    let lab = Lab::shared();
    let folder = lab.scratch("no repository");
    fs::write(folder.join("file"), "mine").unwrap();
    for (path, code) in
        [(folder.clone(), 3), (folder.join("missing"), 3), (folder.join("file"), 3), ("file://host/path".into(), 2)]
    {
        let remora = Remora::new(lab, &path);
        for args in [&["points"][..], &["backup", "any"], &["restore", UNKNOWN, "--to", "/nonexistent/to"]] {
            assert_refused(&remora.run(args), code, &[path.to_str().unwrap()]);
        }
    }
    assert_eq!(list(&folder), ["file"]);
    // What is unknown may hold a secret anywhere, so it is not repeated.
    assert_refused(&Remora::new(lab, "gopher://host/path").run(["points"]), 6, &["gopher:"]);
    assert_refused(&Remora::new(lab, "").run(["points"]), 2, &["no repository", "--repo"]);
}

#[test]
fn a_repository_is_made_once() {
    let lab = Lab::shared();
    let remora = Remora::init(lab);
    let before = remora.json(["repo", "status"]);
    let another = remora.clone().without("REMORA_KEY_FILE").with("REMORA_PASSPHRASE", "another one");
    assert_refused(&another.run(["repo", "init"]), 4, &["repository already"]);
    assert_eq!(remora.json(["repo", "status"]), before);
    // Below a file none can be made.
    let file = lab.scratch("file").join("file");
    fs::write(&file, "mine").unwrap();
    let ran = Remora::new(lab, file.join("repo")).run(["repo", "init"]);
    assert!(ran.code() != 0 && ran.stderr.contains("error: "), "{ran:?}");
}

#[test]
fn a_target_that_exists_is_refused_without_force() {
    let lab = Lab::shared();
    let mut protected = Protected::new("exists", MIB);
    protected.back_up(&[]);
    let id = protected.kept[0].id.clone();
    let folder = lab.scratch("exists");
    let target = folder.join("vda.raw");
    let (to, to_folder) = (target.to_str().unwrap(), folder.to_str().unwrap());
    fs::write(&target, "mine").unwrap();
    let lines: [&[&str]; 3] = [
        &["restore", &id, "--to", to_folder],
        &["restore", &id, "--disk", "vda", "--to", to],
        &["export", &id, "--disk", "vda", "--format", "raw", "--to", to],
    ];
    for line in lines {
        assert_refused(&protected.remora.run(line), 4, &["vda.raw exists", "--force"]);
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(list(&folder), ["vda.raw"]);
        protected.remora.ok(line.iter().chain(&["--force"]));
        assert_same(&target, &protected.kept[0].truth);
        fs::write(&target, "mine").unwrap();
    }
    // What is no file: never, also not with --force.
    assert_refused(&protected.remora.run(["restore", &id, "--to", "/dev/null", "--force"]), 2, &["/dev/null"]);
    let null = protected.remora.run(["restore", &id, "--disk", "vda", "--to", "/dev/null", "--force"]);
    assert_refused(&null, 2, &["/dev/null"]);
    let missing = protected.remora.run(["restore", &id, "--disk", "vdz", "--to", to, "--force"]);
    assert_refused(&missing, 3, &["vdz", "vda"]);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}

#[test]
fn a_configuration_with_an_unknown_key_names_it() {
    let lab = Lab::shared();
    let config = lab.scratch("config").join("config.toml");
    let remora = Remora::new(lab, "/nonexistent").with("REMORA_CONFIG", &config);
    fs::write(&config, "repository = '/srv'\n").unwrap();
    assert_refused(&remora.run(["points"]), 2, &["config.toml", "repository", "passphrase_file"]);
    fs::write(&config, [0xff, 0xfe, 0]).unwrap();
    let ran = remora.run(["points"]);
    assert!(ran.code() != 0 && ran.stderr.contains("config.toml") && !ran.stderr.contains("panicked"), "{ran:?}");
    let ran = remora.with("REMORA_CONFIG", "/nonexistent/config.toml").run(["points"]);
    assert_eq!(ran.code(), 3, "{ran:?}");
    assert!(ran.stderr.contains("/nonexistent/config.toml"), "{ran:?}");
}
