//! The log bridge. A cdylib has statics of its own, so the host's subscriber does not reach it: this one
//! forwards every event to [`HostApi::log`](crate::abi::HostApi).

use std::fmt::{Debug, Write};
use std::sync::OnceLock;

use abi_stable::std_types::{RSlice, RStr};
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::abi::codes::level;
use crate::abi::{HostApi_Ref, KeyValue};

use super::fence;

static HOST: OnceLock<HostApi_Ref> = OnceLock::new();

/// Installs the subscriber, the `log` adapter and the panic hook, once per process.
pub(super) fn install(host: HostApi_Ref) {
    if HOST.set(host).is_err() {
        return;
    }
    // Each fails only if the plugin installed its own first; then its own stands.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Bridge));
    let _ = tracing_log::LogTracer::init();
    std::panic::set_hook(Box::new(fence::hook));
}

struct Bridge;

impl<S: Subscriber> Layer<S> for Bridge {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The host's filter may change while we run: ask each time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        HOST.get().is_some_and(|host| {
            (host.log_enabled().0)(host.ctx(), number(metadata.level()), RStr::from(metadata.target())) != 0
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(host) = HOST.get() else { return };
        let mut visitor = Fields::default();
        event.record(&mut visitor);
        (host.log().0)(
            host.ctx(),
            number(event.metadata().level()),
            RStr::from(event.metadata().target()),
            RStr::from(visitor.message.as_str()),
            RSlice::from_slice(&visitor.fields),
        );
    }
}

fn number(tracing: &Level) -> u32 {
    match *tracing {
        Level::ERROR => level::ERROR,
        Level::WARN => level::WARN,
        Level::INFO => level::INFO,
        Level::DEBUG => level::DEBUG,
        Level::TRACE => level::TRACE,
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<KeyValue>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push(KeyValue::string(field.name(), &format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push(KeyValue::string(field.name(), value));
        }
    }
}
