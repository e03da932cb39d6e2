//! Where PostgreSQL runs us: in its data directory.

use core::mem::MaybeUninit;
use core::str;
use rustix::fs::{CWD, readlinkat_raw};

/// The working directory as the kernel has it, without links. None where a line of text can't have it, or it does not fit.
pub fn working_directory(buffer: &mut [MaybeUninit<u8>]) -> Option<&str> {
    let (path, rest) = readlinkat_raw(CWD, "/proc/self/cwd", buffer).ok()?;
    let is_whole = !rest.is_empty();
    let path = str::from_utf8(path).ok().filter(|_| is_whole)?;
    let is_plain = path.starts_with('/') && !path.chars().any(char::is_control);
    is_plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_systems_or_none() {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let expected = std::env::current_dir().unwrap();
        assert_eq!(working_directory(&mut buffer), expected.to_str());
        let mut short = [const { MaybeUninit::uninit() }; 1];
        assert_eq!(working_directory(&mut short), None);
    }
}
