//! What the server looks for in a module: its magic, and the callbacks of an archive module (`archive_module.h`).

use crate::{archive, postgres};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::size_of;
use core::ptr;
use holdfast_wal_socket::DEFAULT_SOCKET_C;

/// `fmgr.h`: what a module was made for. FUNC_MAX_ARGS, INDEX_MAX_KEYS, NAMEDATALEN and whether float8 is passed by value
/// are what nobody changes.
#[repr(C)]
struct Abi {
    version: c_int,
    func_max_args: c_int,
    index_max_keys: c_int,
    name_data_length: c_int,
    float8_by_value: c_int,
    extra: [u8; 32],
}

/// `Pg_magic_struct` of 15, 16 and 17.
#[repr(C)]
struct Magic {
    length: c_int,
    abi: Abi,
}

/// `Pg_magic_struct` of 18.
#[repr(C)]
struct NamedMagic {
    length: c_int,
    abi: Abi,
    name: *const c_char,
    version: *const c_char,
}

const fn extra() -> [u8; 32] {
    let mut extra = [0; 32];
    let name = b"PostgreSQL";
    let mut at = 0;
    while at < name.len() {
        extra[at] = name[at];
        at += 1;
    }
    extra
}

const fn abi(version: c_int) -> Abi {
    Abi {
        version,
        func_max_args: 100,
        index_max_keys: 32,
        name_data_length: 64,
        float8_by_value: 1,
        extra: extra(),
    }
}

/// PG_VERSION_NUM / 100.
const fn magic(version: c_int) -> Magic {
    Magic {
        length: size_of::<Magic>() as c_int,
        abi: abi(version),
    }
}

static MAGIC_15: Magic = magic(1500);
static MAGIC_16: Magic = magic(1600);
static MAGIC_17: Magic = magic(1700);

const VERSION: &CStr = {
    let text = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();
    match CStr::from_bytes_with_nul(text) {
        Ok(text) => text,
        Err(_) => c"",
    }
};

struct Shared<T>(T);

// SAFETY: It is never written, and what it points to is static.
unsafe impl Sync for Shared<NamedMagic> {}

static MAGIC_18: Shared<NamedMagic> = Shared(NamedMagic {
    length: size_of::<NamedMagic>() as c_int,
    abi: abi(1800),
    name: c"holdfast_archive".as_ptr(),
    version: VERSION.as_ptr(),
});

/// The magic of the server that asks. Of one that is not known the newest: it says that the module does not fit.
#[unsafe(no_mangle)]
pub extern "C" fn Pg_magic_func() -> *const c_void {
    match postgres::version_num() / 10_000 {
        15 => (&raw const MAGIC_15).cast(),
        16 => (&raw const MAGIC_16).cast(),
        17 => (&raw const MAGIC_17).cast(),
        _ => (&raw const MAGIC_18.0).cast(),
    }
}

/// Called when the module is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn _PG_init() {
    postgres::define_settings(DEFAULT_SOCKET_C);
}

/// `ArchiveModuleCallbacks` of 15, whose callbacks know no state.
#[repr(C)]
pub struct Callbacks15 {
    check_configured: Option<unsafe extern "C" fn() -> bool>,
    archive_file: Option<unsafe extern "C" fn(*const c_char, *const c_char) -> bool>,
    shutdown: Option<unsafe extern "C" fn()>,
}

/// `ArchiveModuleCallbacks` of 16 and later.
#[repr(C)]
struct Callbacks {
    startup: Option<unsafe extern "C" fn(*mut c_void)>,
    check_configured: Option<unsafe extern "C" fn(*mut c_void) -> bool>,
    archive_file: Option<unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> bool>,
    shutdown: Option<unsafe extern "C" fn(*mut c_void)>,
}

static CALLBACKS: Callbacks = Callbacks {
    // Nothing is kept between two files.
    startup: None,
    check_configured: Some(check_configured),
    archive_file: Some(archive_file),
    shutdown: None,
};

/// 15 hands over a struct to be filled, 16 and later take the one that is returned.
///
/// # Safety
/// Called by the server that has loaded this module; `filled` is an argument on 15 alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _PG_archive_module_init(filled: *mut Callbacks15) -> *const c_void {
    if postgres::version_num() / 10_000 != 15 {
        return (&raw const CALLBACKS).cast();
    }
    // SAFETY: On 15 it is a struct of the server's that waits to be filled.
    unsafe {
        *filled = Callbacks15 {
            check_configured: Some(check_configured_15),
            archive_file: Some(archive_file_15),
            shutdown: None,
        };
    }
    ptr::null()
}

unsafe extern "C" fn check_configured(_state: *mut c_void) -> bool {
    archive::is_configured()
}

unsafe extern "C" fn check_configured_15() -> bool {
    archive::is_configured()
}

unsafe extern "C" fn archive_file(
    _state: *mut c_void,
    file: *const c_char,
    path: *const c_char,
) -> bool {
    // SAFETY: Both are C strings that outlive the call.
    let (file, path) = unsafe { (CStr::from_ptr(file), CStr::from_ptr(path)) };
    archive::archive(file, path)
}

unsafe extern "C" fn archive_file_15(file: *const c_char, path: *const c_char) -> bool {
    // SAFETY: As above.
    unsafe { archive_file(ptr::null_mut(), file, path) }
}
