//! Where HTTP/2 spawns what it needs: on the same thread.

use std::future::Future;
use std::rc::Rc;

use crate::task::timed;
use crate::worker::Worker;

/// Spawns on the present worker.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) Rc<Worker>);

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(timed(self.0.clone(), future));
    }
}
