//! Lines of a metrics file, and the file that they are appended to: what a run does at each step of a training.
//!
//! A line is an item of a YAML list in flow style, `- {"metrics": {…}, "at": {…}}`, and JSON but for NaN and the
//! infinities. `python/t9k/em/metrics.py` has the format and writes the same text for values that need more thought;
//! [`Line`] takes only what needs none, and says so.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{OFlags, SeekFrom, fstat, ftruncate, seek},
    io::{Errno, retry_on_intr, write},
};

use crate::error::{Error, Kind, Result};

/// A longer name must be quoted by who can refuse it: YAML limits a key on one line to 1,024 characters.
const MAX_NAME_BYTES: usize = 1000;

/// One line while it is put together: all metrics first, then [`Line::at`].
pub struct Line(Vec<u8>);

impl Default for Line {
    fn default() -> Self {
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(b"- {\"metrics\": {");
        Self(text)
    }
}

impl Line {
    /// Begins with a metric's name; false if it must be quoted in another way, and then the line is of no use.
    #[must_use]
    pub fn name(&mut self, name: &str) -> bool {
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        // A colon in front would read as the end of a name, behind its own first quote.
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with(':') || !name.bytes().all(plain) {
            return false;
        }
        let is_first = self.0.ends_with(b"{");
        self.0.extend_from_slice(if is_first { b"\"" } else { b", \"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\": ");
        true
    }

    /// Goes on with the metric's value.
    pub fn integer(&mut self, value: i64) {
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Goes on with the metric's value: the shortest text that reads back as the same number, laid out as Python's
    /// `repr` does, except that a mantissa before an exponent has a dot, because YAML 1.1 reads `1e-05` as text.
    pub fn float(&mut self, value: f64) {
        if !value.is_finite() {
            let text: &[u8] = match value {
                _ if value.is_nan() => b".nan",
                _ if value > 0.0 => b".inf",
                _ => b"-.inf",
            };
            self.0.extend_from_slice(text);
            return;
        }
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value);
        let digits = text.trim_start_matches('-');
        if let Some((mantissa, exponent)) = text.split_once('e') {
            let (sign, exponent) = exponent.split_at(1);
            self.exponential(mantissa, sign, exponent);
        } else if let Some(digits) = digits.strip_prefix("0.0000").filter(|digits| !digits.starts_with('0')) {
            // The only magnitude that Python gives an exponent and the formatter does not.
            let sign = if value < 0.0 { "-" } else { "" };
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            self.exponential(&format!("{sign}{first}{dot}{rest}"), "-", "5");
        } else {
            self.0.extend_from_slice(text.as_bytes());
        }
    }

    fn exponential(&mut self, mantissa: &str, sign: &str, exponent: &str) {
        let dot = if mantissa.contains('.') { "" } else { ".0" };
        let zero = if exponent.len() < 2 { "0" } else { "" };
        for part in [mantissa, dot, "e", sign, zero, exponent] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// Ends the line with when and where its values were measured, and returns its bytes.
    ///
    /// `time_ns` is the time since 1970, UTC; the line has it to the millisecond.
    #[must_use]
    pub fn at(mut self, step: i64, epoch: Option<i64>, time_ns: i64) -> Vec<u8> {
        self.0.extend_from_slice(b"}, \"at\": {\"step\": ");
        self.integer(step);
        if let Some(epoch) = epoch {
            self.0.extend_from_slice(b", \"epoch\": ");
            self.integer(epoch);
        }
        self.0.extend_from_slice(b", \"timestamp\": \"");
        self.timestamp(time_ns.div_euclid(1_000_000));
        self.0.extend_from_slice(b"\"}}\n");
        self.0
    }

    fn timestamp(&mut self, time_ms: i64) {
        let (days, of_day_ms) = (time_ms.div_euclid(86_400_000), time_ms.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let parts = [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (of_day_ms / 3_600_000, 2, b':'),
            (of_day_ms / 60_000 % 60, 2, b':'),
            (of_day_ms / 1000 % 60, 2, b'.'),
            (of_day_ms % 1000, 3, b'Z'),
        ];
        for (number, digits, end) in parts {
            for power in (0..digits).rev() {
                // One decimal digit.
                self.0.push(b'0' + (number / 10_i64.pow(power) % 10) as u8);
            }
            self.0.push(end);
        }
    }
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar, in which 400 years have 146,097 days.
///
/// The year is taken to begin in March, so that the leap day is its last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// One metrics file, open for appending; each line is one write.
///
/// Safe between threads, and between processes on a local file system, because the file is open with `O_APPEND`. A
/// process that dies leaves at most the last line torn. A line that found the disk half full is taken back.
pub struct MetricsFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl MetricsFile {
    /// Opens the file, which is created if it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).custom_flags(OFlags::CLOEXEC.bits() as i32);
        let file = options.open(path).map_err(|error| Error::io("open the metrics file", path, error))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(Some(file)) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one line by one system call; on an error nothing of it is left, unless another process wrote behind it.
    pub fn append(&self, line: &[u8]) -> Result<()> {
        let file = self.lock();
        let Some(file) = &*file else {
            return Err(Error::new(Kind::Store, format!("the metrics file {} is closed", self.path.display())));
        };
        let written = match retry_on_intr(|| write(file, line)) {
            Ok(written) if written == line.len() => return Ok(()),
            // The next bytes would find no room.
            Ok(written) => take_back(file, written as u64).and(Err(Errno::NOSPC)),
            Err(error) => Err(error),
        };
        written.map_err(|error| Error::io("write to the metrics file", &self.path, io::Error::from(error)))
    }

    /// Closes the file, once who writes to it has done so; later calls do nothing.
    pub fn close(&self) {
        *self.lock() = None;
    }
}

fn take_back(file: &File, written: u64) -> rustix::io::Result<()> {
    let end = seek(file, SeekFrom::Current(0))?;
    // Else another process wrote behind the torn line.
    if fstat(file)?.st_size as u64 == end {
        ftruncate(file, end - written)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: Vec<u8>) -> String {
        String::from_utf8(line).unwrap_or_default()
    }

    #[test]
    fn line_of_every_kind_of_value() {
        let mut line = Line::default();
        for (name, value) in [("a b", 0.5), ("nan", f64::NAN), ("inf", f64::INFINITY), ("ninf", -f64::INFINITY)] {
            assert!(line.name(name));
            line.float(value);
        }
        assert!(line.name("n"));
        line.integer(i64::MIN);
        assert_eq!(
            text(line.at(-3, Some(2), 1_767_323_045_678_999_999)),
            "- {\"metrics\": {\"a b\": 0.5, \"nan\": .nan, \"inf\": .inf, \"ninf\": -.inf, \"n\": -9223372036854775808}, \
             \"at\": {\"step\": -3, \"epoch\": 2, \"timestamp\": \"2026-01-02T03:04:05.678Z\"}}\n"
        );
    }

    #[test]
    fn floats_are_laid_out_as_python_does() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1.0e-05"),
            (-1.25e-5, "-1.25e-05"),
            (9.999e-6, "9.999e-06"),
            (1e15, "1000000000000000.0"),
            (1e16, "1.0e+16"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5.0e-324"),
            (0.1, "0.1"),
            (123456789.125, "123456789.125"),
        ] {
            let mut line = Line(Vec::new());
            line.float(value);
            assert_eq!(text(line.0), expected);
        }
    }

    #[test]
    fn names_that_need_quoting_are_refused() {
        for name in ["", ":a", "a\"", "a\\", "a\n", "é", "\u{7f}", &"a".repeat(1001)] {
            assert!(!Line::default().name(name), "{name:?}");
        }
        assert!(Line::default().name(&"a".repeat(1000)));
    }

    #[test]
    fn dates_at_the_edges_of_years() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut line = Line(Vec::new());
            line.timestamp(seconds * 1000);
            assert_eq!(text(line.0), expected);
        }
    }

    #[test]
    fn closed_file_is_an_error_and_stays_closed() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
        let path = folder.path().join("train.yaml");
        let file = MetricsFile::open(&path).unwrap_or_else(|error| unreachable!("{error}"));
        assert!(file.append(b"- a\n").is_ok());
        file.close();
        file.close();
        assert!(file.append(b"- b\n").is_err_and(|error| error.kind == Kind::Store));
        assert_eq!(std::fs::read(path).unwrap_or_default(), b"- a\n");
    }
}
