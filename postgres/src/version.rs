//! The majors of PostgreSQL that Holdfast knows, and how each is recognised in files.

use std::ops::RangeInclusive;

/// The majors that are supported.
pub const SUPPORTED: RangeInclusive<u32> = 14..=18;

/// What a released major writes into its files.
struct Major {
    major: u32,
    /// `CATALOG_VERSION_NO` (`catalog/catversion.h`), which never changes within a released major.
    catalog: u32,
    /// `PG_CONTROL_VERSION` (`catalog/pg_control.h`).
    control: u32,
    /// `XLOG_PAGE_MAGIC` (`access/xlog_internal.h`).
    wal_magic: u16,
}

const MAJORS: [Major; 5] = [
    Major {
        major: 14,
        catalog: 202_107_181,
        control: 1300,
        wal_magic: 0xD10D,
    },
    Major {
        major: 15,
        catalog: 202_209_061,
        control: 1300,
        wal_magic: 0xD110,
    },
    Major {
        major: 16,
        catalog: 202_307_071,
        control: 1300,
        wal_magic: 0xD113,
    },
    Major {
        major: 17,
        catalog: 202_406_281,
        control: 1700,
        wal_magic: 0xD116,
    },
    Major {
        major: 18,
        catalog: 202_506_291,
        control: 1800,
        wal_magic: 0xD118,
    },
];

/// The major that writes pg_control with these two versions.
#[must_use]
pub fn major_of_control_file(control: u32, catalog: u32) -> Option<u32> {
    MAJORS
        .iter()
        .find(|m| m.control == control && m.catalog == catalog)
        .map(|m| m.major)
}

/// The major that writes WAL pages with this magic.
#[must_use]
pub fn major_of_wal_magic(magic: u16) -> Option<u32> {
    MAJORS
        .iter()
        .find(|m| m.wal_magic == magic)
        .map(|m| m.major)
}

/// The magic of the WAL pages that a major writes.
#[must_use]
pub fn wal_magic(major: u32) -> Option<u16> {
    MAJORS
        .iter()
        .find(|m| m.major == major)
        .map(|m| m.wal_magic)
}

/// The catalog version of a major, which names its directory inside each tablespace.
#[must_use]
pub fn catalog_version(major: u32) -> Option<u32> {
    MAJORS.iter().find(|m| m.major == major).map(|m| m.catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_major_is_recognised_by_its_files() {
        for major in SUPPORTED {
            let magic = wal_magic(major).expect("magic");
            let catalog = catalog_version(major).expect("catalog version");
            let control = match major {
                17 => 1700,
                18 => 1800,
                _ => 1300,
            };
            assert_eq!(major_of_wal_magic(magic), Some(major));
            assert_eq!(major_of_control_file(control, catalog), Some(major));
        }
        assert_eq!(major_of_wal_magic(0), None);
        assert_eq!(major_of_control_file(1300, 202_506_291), None);
    }
}
