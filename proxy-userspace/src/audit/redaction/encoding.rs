//! Whether a session's settings let its SQL be scanned byte by byte.

use std::time::Instant;

use bytes::Bytes;

/// Encodings in which every byte of a character beyond ASCII has its high bit set: all that a server may use
/// (src/common/encnames.c; the rest are for clients only: SJIS, BIG5, GBK, UHC, GB18030, JOHAB, SHIFT_JIS_2004).
const SAFE: [&str; 36] = [
    "SQL_ASCII",
    "EUC_JP",
    "EUC_CN",
    "EUC_KR",
    "EUC_TW",
    "EUC_JIS_2004",
    "UTF8",
    "UNICODE",
    "MULE_INTERNAL",
    "LATIN1",
    "LATIN2",
    "LATIN3",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "WIN1256",
    "WIN1258",
    "WIN866",
    "WIN874",
    "KOI8R",
    "WIN1251",
    "WIN1252",
    "ISO_8859_5",
    "ISO_8859_6",
    "ISO_8859_7",
    "ISO_8859_8",
    "WIN1250",
    "WIN1253",
    "WIN1254",
    "WIN1255",
    "WIN1257",
    "KOI8U",
];
/// No encoding's name is longer; what a server says beyond it is not kept.
const MAX_NAME_BYTES: usize = 64;

/// Whether a text can be scanned with certainty; the greater, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::audit) enum Scanning {
    /// It can.
    Certain,
    /// `standard_conforming_strings` is not on, or not known.
    EscapeStrings,
    /// `client_encoding` is none of the safe ones, or not known.
    UnsafeEncoding,
}

/// A setting as the server last reported it.
#[derive(Clone, Debug, Default)]
struct Reported {
    value: Option<Bytes>,
    /// When a value that lets no text be scanned, or none at all, was last in force.
    unsafe_until: Option<Instant>,
    /// When it came to be another value than before.
    changed: Option<Instant>,
}

impl Reported {
    fn change(&mut self, value: Bytes, is_safe: impl Fn(&[u8]) -> bool, now: Instant) {
        // Before the first report no client could send a statement: that silence says nothing about any.
        if self.value.as_ref().is_some_and(|old| !is_safe(old)) {
            self.unsafe_until = Some(now);
        }
        if self.value.as_ref().is_some_and(|old| *old != value) {
            self.changed = Some(now);
        }
        self.value = Some(value);
    }

    /// Whether a text sent at `sent` was scanned by a safe value. What was in force is known only to lie between the
    /// reports before and after it, so both have to be safe.
    fn was_safe(&self, is_safe: impl Fn(&[u8]) -> bool, sent: Instant) -> bool {
        self.value.as_ref().is_some_and(|value| is_safe(value))
            && self.unsafe_until.is_none_or(|until| sent > until)
    }
}

/// The settings of one session that decide how its SQL is scanned.
#[derive(Clone, Debug, Default)]
pub(in crate::audit) struct ScanSettings {
    client_encoding: Reported,
    standard_conforming_strings: Reported,
}

impl ScanSettings {
    /// The server reported a setting.
    pub(in crate::audit) fn report(&mut self, name: &[u8], value: Bytes, now: Instant) {
        if value.len() > MAX_NAME_BYTES {
            return self.report(name, Bytes::new(), now);
        }
        match name {
            b"client_encoding" => self.client_encoding.change(value, is_safe_encoding, now),
            b"standard_conforming_strings" => {
                self.standard_conforming_strings.change(value, is_on, now);
            }
            _ => {}
        }
    }

    /// What a reported setting does to texts that were sent before the report and came to the server after the change.
    pub(in crate::audit) fn doubt(name: &[u8], value: &[u8]) -> Option<Scanning> {
        match name {
            b"client_encoding" if !is_safe_encoding(value) => Some(Scanning::UnsafeEncoding),
            b"standard_conforming_strings" if !is_on(value) => Some(Scanning::EscapeStrings),
            _ => None,
        }
    }

    /// The client's encoding of a text sent then; none where it was changed since: before the text or behind it, nobody
    /// can tell.
    pub(in crate::audit) fn encoding(&self, sent: Instant) -> Option<&Bytes> {
        let reported = &self.client_encoding;
        let is_certain = reported.changed.is_none_or(|changed| sent > changed);
        reported.value.as_ref().filter(|_| is_certain)
    }

    /// Whether a text sent then can be scanned.
    pub(in crate::audit) fn scanning(&self, sent: Instant) -> Scanning {
        if !self.client_encoding.was_safe(is_safe_encoding, sent) {
            Scanning::UnsafeEncoding
        } else if !self.standard_conforming_strings.was_safe(is_on, sent) {
            Scanning::EscapeStrings
        } else {
            Scanning::Certain
        }
    }
}

fn is_safe_encoding(name: &[u8]) -> bool {
    SAFE.iter().any(|safe| safe.as_bytes() == name)
}

fn is_on(value: &[u8]) -> bool {
    value == b"on"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ENCODING: &[u8] = b"client_encoding";
    const STRINGS: &[u8] = b"standard_conforming_strings";

    #[test]
    fn only_settings_known_to_be_safe_let_a_text_be_scanned() {
        type Report<'a> = (&'a [u8], &'a str);
        let cases: [(&[Report<'_>], Scanning); 8] = [
            (&[], Scanning::UnsafeEncoding),
            (&[(STRINGS, "on")], Scanning::UnsafeEncoding),
            (&[(ENCODING, "UTF8")], Scanning::EscapeStrings),
            (&[(ENCODING, "UTF8"), (STRINGS, "on")], Scanning::Certain),
            (&[(ENCODING, "LATIN1"), (STRINGS, "on")], Scanning::Certain),
            (
                &[(ENCODING, "UTF8"), (STRINGS, "off")],
                Scanning::EscapeStrings,
            ),
            (
                &[(ENCODING, "SJIS"), (STRINGS, "on")],
                Scanning::UnsafeEncoding,
            ),
            (
                &[(ENCODING, "GB18030"), (STRINGS, "on")],
                Scanning::UnsafeEncoding,
            ),
        ];
        for (reports, expected) in cases {
            let mut settings = ScanSettings::default();
            let now = Instant::now();
            for (name, value) in reports {
                settings.report(name, Bytes::copy_from_slice(value.as_bytes()), now);
            }
            let sent = now + Duration::from_millis(1);
            assert_eq!(settings.scanning(sent), expected, "{reports:?}");
        }
    }

    #[test]
    fn a_text_sent_before_the_encoding_became_safe_is_not_scanned() {
        let mut settings = ScanSettings::default();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        settings.report(STRINGS, Bytes::from_static(b"on"), start);
        settings.report(ENCODING, Bytes::from_static(b"BIG5"), start);
        settings.report(ENCODING, Bytes::from_static(b"UTF8"), after(10));
        assert_eq!(settings.scanning(after(9)), Scanning::UnsafeEncoding);
        assert_eq!(settings.scanning(after(11)), Scanning::Certain);
    }

    #[test]
    fn an_endless_name_is_not_kept() {
        let mut settings = ScanSettings::default();
        let name = Bytes::from(vec![b'x'; MAX_NAME_BYTES + 1]);
        settings.report(ENCODING, name, Instant::now());
        let encoding = settings.encoding(Instant::now());
        assert_eq!(encoding.map(Bytes::len), Some(0));
    }
}
