use super::*;
use crate::config::Place;
use std::fs;
use std::path::Path;

const FILE: &str = "archive: a/b\nsocket: /s/wal.sock\npostgres: {dataDirectory: /d, passwordFile: password}\n\
                    repositories: [{name: r, filesystem: {path: /b}, encryption: {currentKey: k, keyFiles: {k: key}}}]\n\
                    monitoring: {listen: \"[::]:9644\"}\ngeneration: 1\n";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

struct Watched {
    folder: tempfile::TempDir,
    watcher: Watcher,
}

impl Watched {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content);
        write("config.yaml", FILE).unwrap();
        write("password", "one").unwrap();
        write("key", KEY).unwrap();
        let file = folder.path().join("config.yaml");
        let settings = config::parse(&file, FILE, &Overrides::default()).unwrap();
        let live = Live::from(Arc::new(settings));
        let watcher = Watcher::new(live, Overrides::default(), Arc::default());
        Self { folder, watcher }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    /// Whether the look replaced the settings; what is in use, and the trouble.
    fn look(&mut self) -> (bool, Arc<Settings>, String) {
        let before = self.watcher.live.get();
        self.watcher.look();
        let now = self.watcher.live.get();
        let trouble = self.watcher.live.trouble().unwrap_or_default();
        (!Arc::ptr_eq(&before, &now), now, trouble)
    }
}

#[test]
fn new_settings_are_taken_over_and_bad_ones_are_told() {
    let mut place = Watched::new();
    assert!(place.look().0, "the first look takes what is there");
    assert!(!place.look().0);
    place.write(
        "config.yaml",
        &FILE.replace("generation: 1", "generation: 2"),
    );
    let (replaced, settings, trouble) = place.look();
    assert_eq!(
        (replaced, settings.generation, &*trouble),
        (true, Some(2), "")
    );

    for (name, content, told) in [
        ("config.yaml", "archive: [", "config.yaml:"),
        (
            "config.yaml",
            &*FILE.replace("archive: a/b", "archive: a/c"),
            "the archive's name has changed from a/b to a/c: restart",
        ),
        (
            "config.yaml",
            &*FILE.replace("/d,", "/e,"),
            "postgres.dataDirectory has changed from /d to /e: restart",
        ),
        (
            "config.yaml",
            &*FILE.replace("{k: key}", "{k: other}"),
            "other can't be read",
        ),
    ] {
        place.write(name, content);
        let (replaced, settings, trouble) = place.look();
        assert!(!replaced && settings.generation == Some(2), "{told}");
        assert!(trouble.contains(told), "{trouble}");
        assert!(!place.look().0);
    }
    // The missing file is watched, too.
    place.write("other", KEY);
    let (replaced, settings, trouble) = place.look();
    assert_eq!(
        (replaced, settings.generation, &*trouble),
        (true, Some(1), "")
    );
}

#[test]
fn a_file_that_is_named_counts_like_the_settings() {
    let mut place = Watched::new();
    place.look();
    place.write("password", "two");
    assert!(place.look().0);
    place.write("key", "broken");
    let (replaced, _, trouble) = place.look();
    assert!(
        !replaced && trouble.contains("does not hold 32 bytes"),
        "{trouble}"
    );
    fs::remove_file(place.folder.path().join("key")).unwrap();
    let (replaced, _, trouble) = place.look();
    assert!(!replaced && trouble.contains("can't be read"), "{trouble}");
    place.write("key", KEY);
    let (replaced, _, trouble) = place.look();
    assert!(replaced && trouble.is_empty(), "{trouble}");
}

/// As kubelet does it: every file is a link through `..data`, which is swapped.
#[test]
fn a_swapped_folder_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let version = |name: &str, generation: &str| {
        fs::create_dir(path(name)).unwrap();
        let text = FILE.replace("generation: 1", generation);
        fs::write(path(name).join("config.yaml"), text).unwrap();
        fs::write(path(name).join("password"), "x").unwrap();
        fs::write(path(name).join("key"), KEY).unwrap();
    };
    version("..1", "generation: 1");
    std::os::unix::fs::symlink("..1", path("..data")).unwrap();
    for name in ["config.yaml", "password", "key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), path(name)).unwrap();
    }
    let settings = config::parse(&path("config.yaml"), FILE, &Overrides::default()).unwrap();
    let live = Live::from(Arc::new(settings));
    let mut watcher = Watcher::new(live.clone(), Overrides::default(), Arc::default());
    watcher.look();
    version("..2", "generation: 7");
    std::os::unix::fs::symlink("..2", path("..tmp")).unwrap();
    fs::rename(path("..tmp"), path("..data")).unwrap();
    fs::remove_dir_all(path("..1")).unwrap();
    watcher.look();
    assert_eq!(live.get().generation, Some(7));
    assert_eq!(live.trouble(), None);
}

#[test]
fn what_needs_a_restart_stays_and_the_rest_is_taken() {
    let control = "control: {listen: \"[::]:1\", caFile: ca, certificateFile: c, keyFile: k}\n";
    let parse = |text: &str| config::parse(Path::new("/f"), text, &Overrides::default()).unwrap();
    let old = parse(&format!("{FILE}{control}"));
    for (from, to, expected) in [
        ("/s/wal.sock", "/t/wal.sock", "socket"),
        ("[::]:9644", "[::]:9645", "monitoring.listen"),
        ("[::]:1", "[::]:2", "control.listen"),
        (control, "", "control.listen"),
        (
            "generation: 1\n",
            "limits: {memory: 512Mi}\n",
            "limits.memory",
        ),
    ] {
        let text = format!("{FILE}{control}")
            .replace(from, to)
            .replace("path: /b", "path: /c");
        let (now, unchanged) = take_over(&old, parse(&text)).unwrap();
        let unchanged = unchanged.unwrap();
        assert!(
            unchanged.starts_with(&format!("{expected} can't")),
            "{unchanged}"
        );
        assert_eq!(
            (&now.socket, &now.control, now.monitoring, now.memory),
            (&old.socket, &old.control, old.monitoring, old.memory)
        );
        let place = &now.repositories[0].place;
        assert!(matches!(place, Place::Filesystem { path } if path == Path::new("/c")));
    }
    let moved = format!("{FILE}{control}").replace("caFile: ca", "caFile: new");
    let (now, unchanged) = take_over(&old, parse(&moved)).unwrap();
    assert_eq!(unchanged, None);
    assert_eq!(now.control.unwrap().ca_file, Path::new("/new"));
}
