//! The directories that an FXCACHE has, by their names: a server without a listing cannot be asked
//! for one, and a path is looked up one name after the other.

/// Directories of results, by kind.
const KINDS: [&str; 4] = ["TB", "MT", "FIT", "TT"];
/// Where metadata lies: the version of the layout.
const VERSION: &str = "8";

/// Whether `path` is one of `TB`, `MT`, `FIT`, `TT`, `8`, `8/<broker>`, `8/<broker>/<instrument>`,
/// `<broker>-<session>-tf_<timeframe>` and that with `/<instrument>`.
pub(super) fn is_directory(path: &str) -> bool {
    let names: Vec<_> = path.split('/').collect();
    // Files have endings.
    let plain = names
        .iter()
        .all(|name| !name.is_empty() && !name.contains('.'));
    plain
        && match names.as_slice() {
            [first] => KINDS.contains(first) || *first == VERSION || is_prices(first),
            [first, _] => *first == VERSION || is_prices(first),
            [first, _, _] => *first == VERSION,
            _ => false,
        }
}

fn is_prices(name: &str) -> bool {
    name.rsplit_once("-tf_").is_some_and(|(before, timeframe)| {
        !timeframe.is_empty()
            && before
                .split_once('-')
                .is_some_and(|(broker, session)| !broker.is_empty() && !session.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_directories_are_told_by_their_names() {
        for dir in [
            "TB",
            "FIT",
            "8",
            "8/oanda",
            "8/oanda/EURUSD",
            "oanda-london-tf_M5",
            "oanda-london-tf_M5/EURUSD",
        ] {
            assert!(is_directory(dir), "{dir}");
        }
        for other in [
            "",
            "TB/x",
            "TB/a.pkl",
            "none",
            "LOCK",
            "8/oanda/EURUSD/more",
            "8/oanda/a.json",
            "-tf_M5",
            "oanda-london-tf_",
            "oanda-tf_M5",
            "oanda-london-tf_M5/EURUSD/prices",
        ] {
            assert!(!is_directory(other), "{other}");
        }
    }
}
