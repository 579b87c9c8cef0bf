use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::mkfifo,
};

use super::{pack::is_of_kernel, *};

fn opened(path: &Path) -> OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("it is there")
}

fn packed(path: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(opened(path), &name_of(path), &mut archive).expect("packed");
    archive
}

#[test]
fn a_folder_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("deep/er")).expect("made");
    fs::create_dir(&to).expect("made");
    fs::write(from.join("deep/er/text"), "words").expect("written");
    fs::set_permissions(from.join("deep/er/text"), fs::Permissions::from_mode(0o640)).expect("set");
    fs::set_permissions(from.join("deep/er"), fs::Permissions::from_mode(0o550)).expect("set");
    symlink("/nowhere", from.join("link")).expect("linked");
    mkfifo(&from.join("pipe"), Mode::from_bits_truncate(0o600)).expect("made");
    fs::File::create(from.join("holes")).and_then(|file| file.set_len(8 << 20)).expect("made");
    let long = "x".repeat(200);
    fs::write(from.join(&long), "long").expect("written");

    let archive = packed(&from);
    let surveyed = survey(&archive[..]).expect("an archive");
    let copied = unpack(&opened(&to), Some("new".as_ref()), false, &archive[..]).expect("unpacked");
    assert_eq!(surveyed, copied);
    assert_eq!(copied.left_out, ["from/pipe: it is a socket, a pipe or a device"]);
    assert_eq!((copied.entries, copied.bytes), (7, 5 + 4 + (8 << 20)));
    let new = to.join("new");
    let mode = |path: &str| fs::metadata(new.join(path)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("deep/er/text"), mode("deep/er")), (0o640, 0o550));
    assert_eq!(fs::read(new.join("deep/er/text")).expect("read"), b"words");
    assert_eq!(fs::read(new.join(&long)).expect("read"), b"long");
    assert_eq!(fs::read_link(new.join("link")).expect("a link"), Path::new("/nowhere"));
    let holes = fs::metadata(new.join("holes")).expect("there");
    assert!(holes.len() == 8 << 20 && holes.blocks() < 100, "{} blocks", holes.blocks());
    let time = |root: &Path| fs::metadata(root.join("deep/er/text")).expect("there").mtime();
    assert_eq!(time(&from), time(&new));
    // What is in it, without itself, under another name and into a folder.
    let content = packed(&from.join("."));
    for (name, at) in [(Some("other"), "other/deep/er/text"), (None, "deep/er/text")] {
        unpack(&opened(&to), name.map(std::ffi::OsStr::new), false, &content[..]).expect("unpacked");
        assert_eq!(fs::read(to.join(at)).expect("read"), b"words", "{name:?}");
    }
    // Once more, over what is there.
    assert_eq!(unpack(&opened(&to), Some("new".as_ref()), false, &archive[..]).expect("unpacked"), copied);
    let there = fs::read_dir(&new).expect("there").count();
    assert_eq!(there, 4, "deep, link, holes and the long one; nothing unfinished");
}

/// An archive of one file.
fn archive_of(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(u64::try_from(content.len()).expect("short"));
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, content).expect("written");
    archive.into_inner().expect("written")
}

#[test]
fn nothing_is_written_outside_the_target() {
    let dir = tempfile::tempdir().expect("a folder");
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    fs::create_dir(&to).expect("made");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("file"), "old").expect("written");
    symlink(&outside, to.join("out")).expect("linked");
    symlink("../outside/file", to.join("file")).expect("linked");
    for path in ["../outside/file", "a/../../outside/file", "out/file", "out/new"] {
        let refused = unpack(&opened(&to), None, false, &archive_of(path, b"new")[..]);
        assert!(refused.is_err(), "{path}: {refused:?}");
    }
    // A link in the place of the file itself is replaced, not followed.
    unpack(&opened(&to), None, false, &archive_of("/file", b"new")[..]).expect("unpacked");
    assert_eq!(fs::read(to.join("file")).expect("read"), b"new");
    assert_eq!(fs::read(outside.join("file")).expect("read"), b"old");
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
}

#[test]
fn what_breaks_off_leaves_no_half_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = archive_of("file", &[7; 100_000]);
    let error = unpack(&opened(dir.path()), None, false, &archive[..50_000]).expect_err("broken off");
    assert_eq!(error.path, Path::new("file"));
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
    fs::create_dir(dir.path().join("file")).expect("made");
    let error = unpack(&opened(dir.path()), None, false, &archive[..]).expect_err("a folder is there");
    assert_eq!(error.to_string(), "file: a folder is there");
    assert!(survey(&b"no archive at all, but some text that is longer than nothing"[..]).is_err());
}

#[test]
fn names_are_what_cp_makes_of_them() {
    for (path, name) in [("/etc/hosts", "hosts"), ("/etc/", "etc"), ("/etc/.", "."), ("/", "."), ("a", "a"), (".", ".")]
    {
        assert_eq!(name_of(Path::new(path)), Path::new(name), "{path}");
    }
}

#[test]
fn what_the_kernel_makes_is_left_out_unless_it_is_asked_for() {
    // Who can be seen there changes all the time, and some of it has no end.
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a"), "b").expect("written");
    assert!(is_of_kernel(&opened(Path::new("/proc"))) && is_of_kernel(&opened(Path::new("/sys"))));
    assert!(!is_of_kernel(&opened(dir.path())));
    let copied = survey(&packed(Path::new("/proc/sys/kernel/random"))[..]).expect("an archive");
    assert!(copied.entries > 1, "{copied:?}");
}
