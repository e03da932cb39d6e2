//! What the server gives to modules, as its headers declare it.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

/// `elog.h`, 14 and later.
pub const WARNING: c_int = 19;
/// `elog.h`, 14 and later: the process ends with 1, and the archiver is started anew.
pub const FATAL: c_int = 22;
/// `guc.h`: from the configuration file alone, without a restart.
const PGC_SIGHUP: c_int = 2;

// Each of them is in every server from 15 to 18.
unsafe extern "C" {
    /// `interrupt.h`: of SIGTERM.
    static mut ShutdownRequestPending: c_int;
    /// `miscadmin.h`: other processes wait until this one has taken note of something.
    static mut ProcSignalBarrierPending: c_int;
    /// `procsignal.h`
    fn ProcessProcSignalBarrier();
    /// `pmsignal.h`
    fn PostmasterIsAliveInternal() -> bool;
    /// `guc.h`
    fn GetConfigOption(
        name: *const c_char,
        missing_ok: bool,
        restrict_privileged: bool,
    ) -> *const c_char;
    /// `guc.h`
    fn DefineCustomStringVariable(
        name: *const c_char,
        short_description: *const c_char,
        long_description: *const c_char,
        value: *mut *mut c_char,
        boot_value: *const c_char,
        context: c_int,
        flags: c_int,
        check: *const c_void,
        assign: *const c_void,
        show: *const c_void,
    );
    /// `guc.h`
    fn MarkGUCPrefixReserved(prefix: *const c_char);
    /// `elog.h`
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    /// `elog.h`
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    /// `elog.h`
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    /// Of the C library, which the server has loaded, whichever it is.
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// `holdfast.socket`; the server sets it.
static mut SOCKET: *mut c_char = ptr::null_mut();

/// The server's version, as `server_version_num` has it; 0 where it does not tell.
pub fn version_num() -> u32 {
    // SAFETY: The name is of a setting that every server has; null is answered where it is not.
    let text = unsafe { GetConfigOption(c"server_version_num".as_ptr(), true, false) };
    if text.is_null() {
        return 0;
    }
    // SAFETY: A setting's value is a C string, which stays as it is until the next call.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// Makes `holdfast.socket` known, which may stand in postgresql.conf before.
pub fn define_settings(default: &'static CStr) {
    // SAFETY: Called once, when the module is loaded, as guc.h has it; all texts are static, and SOCKET is the server's.
    unsafe {
        DefineCustomStringVariable(
            c"holdfast.socket".as_ptr(),
            c"The socket of the Holdfast sidecar that archives WAL.".as_ptr(),
            ptr::null(),
            &raw mut SOCKET,
            default.as_ptr(),
            PGC_SIGHUP,
            0,
            ptr::null(),
            ptr::null(),
            ptr::null(),
        );
        MarkGUCPrefixReserved(c"holdfast".as_ptr());
    }
}

/// `holdfast.socket`, as it is now; the server may replace it between two calls of the module.
pub fn socket() -> &'static CStr {
    // SAFETY: One thread alone runs in the archiver, and the server sets it between calls of the module.
    let socket = unsafe { SOCKET };
    if socket.is_null() {
        return c"";
    }
    // SAFETY: A setting's value is a C string.
    unsafe { CStr::from_ptr(socket) }
}

/// Does what other processes wait for; an ERROR in that leaves by a jump. Whether the archiver is to end, or its server has gone.
pub fn is_to_end() -> bool {
    // SAFETY: Of signal handlers; read as C reads what is volatile.
    let (barrier, shutdown) = unsafe {
        (
            ptr::read_volatile(&raw const ProcSignalBarrierPending),
            ptr::read_volatile(&raw const ShutdownRequestPending),
        )
    };
    if barrier != 0 {
        // SAFETY: As the archiver's own loop does between two files.
        unsafe { ProcessProcSignalBarrier() };
    }
    // SAFETY: It looks at the postmaster's pipe.
    shutdown != 0 || !unsafe { PostmasterIsAliveInternal() }
}

/// Writes a line to the server's log; after one that is [`FATAL`] the process ends.
pub fn report(level: c_int, message: &CStr) {
    // SAFETY: In the order of elog.h's `ereport`; both texts are C strings, and the server copies them.
    unsafe {
        if errstart(level, ptr::null()) {
            errmsg_internal(c"%s".as_ptr(), message.as_ptr());
            errfinish(
                c"holdfast_archive".as_ptr(),
                0,
                c"holdfast_archive".as_ptr(),
            );
        }
    }
}

/// Says why the module is not configured, where the server asks for that: 17 and later (`arch_module_check_errdetail`).
pub fn check_detail(detail: &'static CStr) {
    // SAFETY: It looks for a name among what is loaded; the handle is RTLD_DEFAULT.
    let place = unsafe {
        dlsym(
            ptr::null_mut(),
            c"arch_module_check_errdetail_string".as_ptr(),
        )
    };
    if !place.is_null() {
        // SAFETY: `char *arch_module_check_errdetail_string`, of which the server reads the text after this call, no more.
        unsafe { *place.cast::<*const c_char>() = detail.as_ptr() };
    }
}
