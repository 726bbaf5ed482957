//! Mutations of seeds: the same ones for the same number.

/// Numbers at which things break.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "256",
    "4096",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "170141183460469231731687303715.999999999",
    "1e999",
    "NaN",
    "+5",
    "00",
];

/// Pieces that mean something somewhere.
const PIECES: &[&[u8]] = &[
    b"..",
    b"/",
    b"../",
    b"//",
    b"/./",
    b".larder",
    b"\0",
    b"%2e%2e%2f",
    b"%00",
    b"%c0%ae",
    b"\xff",
    b"\xc3\xa9",
    b"\r\n",
    b"\n",
    b"\x1b[2J",
    b"\\",
    b"\"",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"=",
    b"-",
    b":",
    b"@",
    b"?",
    b"#",
    b"null",
    b"true",
    b"end\n",
    b"bytes=",
    b"bytes ",
    b"PAR1",
    b"W/",
    b"*",
    b"~/",
    b"\\ud800",
    b"\\u0000",
    b"\xe2\x80\xae",
];

const LONGEST: usize = 64 << 10;

/// Makes inputs out of seeds.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 where there is nothing below.
    fn below(&mut self, end: usize) -> usize {
        (self.random() % (end.max(1) as u64)) as usize
    }

    /// One of the seeds, changed in a few places.
    pub fn next(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[&[u8]]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(16)).min(bytes.len());
        match self.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            2 => drop(bytes.splice(at..end, [])),
            3 => bytes.truncate(at),
            4 => {
                let twice = bytes[at..end].repeat(1 + self.below(40));
                bytes.splice(at..at, twice);
            }
            5 => self.renumber(bytes, at),
            6 => {
                let other = seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            7 => {
                let byte = self.random() as u8;
                bytes.insert(at, byte);
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }

    /// Puts another number in the place of the first one from `at` on.
    fn renumber(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let digits = |byte: &u8| byte.is_ascii_digit();
        let Some(start) = bytes[at..].iter().position(digits).map(|n| n + at) else {
            return;
        };
        let length = bytes[start..].iter().take_while(|b| digits(b)).count();
        let number = NUMBERS[self.below(NUMBERS.len())];
        bytes.splice(start..start + length, number.bytes());
    }
}
