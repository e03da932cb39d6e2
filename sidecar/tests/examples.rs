//! The files in `examples/` are settings that the program takes.

use std::path::Path;

#[test]
fn every_example_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut read = 0;
    for entry in std::fs::read_dir(&folder).expect("examples/ is there") {
        let path = entry.expect("a folder's entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            if let Err(problems) = holdfast::config::load(&path) {
                panic!("{problems}");
            }
            read += 1;
        }
    }
    assert!(read > 0, "no example in {}", folder.display());
}
