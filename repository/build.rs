//! Compiles every `.proto` in `proto/`: the files document what is stored, the code is made from them.

use std::io::{Error, Result};

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = Vec::new();
    for entry in std::fs::read_dir("proto")? {
        files.push(entry?.path());
    }
    files.sort();
    let descriptors = protox::compile(&files, ["proto"]).map_err(Error::other)?;
    prost_build::compile_fds(descriptors)
}
