//! What the daemon's code logs on one test's own thread.
//!
//! One subscriber for the whole run, set before anybody hears anything: one a test, set while others
//! log, is now and then not heard by a line that another thread came by first.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt};

thread_local! {
    static HEARD: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// The lines of this thread, from [`listen`] on.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic inside").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// To be called before the code runs that logs; what it spawns must stay on the test's thread.
pub fn listen() -> Log {
    static ONCE: Once = Once::new();
    let log = Log::default();
    HEARD.set(Some(log.clone()));
    ONCE.call_once(|| {
        let here = dynamic_filter_fn(|_, _| HEARD.with_borrow(Option::is_some));
        let lines = fmt::layer()
            .with_ansi(false)
            .with_writer(|| HEARD.with_borrow(|log| log.clone().unwrap_or_default()))
            .with_filter(here.with_max_level_hint(LevelFilter::INFO));
        tracing::subscriber::set_global_default(Registry::default().with(lines))
            .expect("no other test sets one");
    });
    log
}

impl Log {
    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic inside")).into_owned()
    }

    /// The first line with these words, as soon as it is there.
    pub async fn line(&self, words: &str) -> String {
        let begin = std::time::Instant::now();
        loop {
            let text =
                String::from_utf8_lossy(&self.0.lock().expect("no panic inside")).into_owned();
            if let Some(line) = text.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "never {words:?}: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
