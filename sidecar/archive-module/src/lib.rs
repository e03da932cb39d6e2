//! `holdfast_archive`, an `archive_library`: PostgreSQL's archiver hands each file's name to the sidecar's socket by itself,
//! where an `archive_command` would start a shell and a program for each.
//!
//! One shared object for 15 to 18, on glibc and on musl: it needs no library, takes the version from the server that loads
//! it, and allocates nothing. What it takes from the server stands in `postgres.rs`.
//!
//! Its frames may be left by a jump of PostgreSQL's (an ERROR in what it calls), so nothing in them needs to be dropped but
//! a socket; one that is left so stays open until the archiver ends.
#![no_std]

mod archive;
mod module;
mod postgres;
mod text;

/// There is nobody who could catch it: the archiver ends, and the postmaster starts another.
#[cfg(feature = "shared-object")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut line = text::Line::<512>::new();
    let _ = core::fmt::write(&mut line, format_args!("holdfast_archive: {info}"));
    postgres::report(postgres::FATAL, line.as_c_str());
    // Not reached: the server ends the process.
    loop {
        core::hint::spin_loop();
    }
}
