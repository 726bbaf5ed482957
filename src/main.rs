//! The program: words in, words out. Everything is in the library.

fn main() -> std::process::ExitCode {
    larder::cli::run()
}
