//! Text without an allocator.

use core::ffi::CStr;
use core::fmt;

/// Text of at most `N` - 1 bytes, with a zero after it. What does not fit is left out.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
    is_cut: bool,
}

impl<const N: usize> Line<N> {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
            is_cut: false,
        }
    }

    /// Adds bytes, but no zero.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match self.bytes.get_mut(self.length) {
                Some(place) if self.length + 1 < N => *place = *byte,
                _ => {
                    self.is_cut = true;
                    return;
                }
            }
            self.length += 1;
        }
    }

    /// Whether something did not fit.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The text, up to its first zero.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// On one line: nothing that a socket says can forge a line of the log.
impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let shown = if c.is_control() { ' ' } else { c };
            let mut bytes = [0; 4];
            let bytes = shown.encode_utf8(&mut bytes).as_bytes();
            if self.length + bytes.len() + 1 > N {
                self.is_cut = true;
                return Ok(());
            }
            self.push(bytes);
        }
        Ok(())
    }
}
