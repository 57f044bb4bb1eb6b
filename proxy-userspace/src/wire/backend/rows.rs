//! What describes rows and COPY data.

use crate::wire::build::{self, Unwritable};
use crate::wire::cursor::{Cursor, Malformed};

/// A column of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The table it comes from, as an OID; 0 for none.
    pub table: u32,
    /// Its number in that table; 0 for none.
    pub number: i16,
    /// Its type, as an OID.
    pub type_oid: u32,
    /// Its type's size in bytes; negative is variable.
    pub type_size: i16,
    /// Its type's modifier.
    pub type_modifier: i32,
    /// Its format: 0 text, 1 binary.
    pub format: i16,
}

impl<'a> Column<'a> {
    pub(super) fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            name: cursor.c_string()?,
            table: cursor.u32()?,
            number: cursor.i16()?,
            type_oid: cursor.u32()?,
            type_size: cursor.i16()?,
            type_modifier: cursor.i32()?,
            format: cursor.i16()?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        build::c_string(out, self.name)?;
        out.extend(self.table.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.extend(self.type_oid.to_be_bytes());
        out.extend(self.type_size.to_be_bytes());
        out.extend(self.type_modifier.to_be_bytes());
        out.extend(self.format.to_be_bytes());
        Ok(())
    }
}

/// The format of COPY data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyFormat {
    /// Of the whole: 0 text, 1 binary.
    pub overall: u8,
    /// Of each column.
    pub columns: Vec<i16>,
}

impl CopyFormat {
    pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            overall: cursor.byte()?,
            columns: cursor.formats()?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        out.push(self.overall);
        build::formats(out, &self.columns)
    }
}
