//! Operations that change names: mkdir, unlink, rmdir, rename.
//!
//! Keys are all there is, so a folder that was never made by mkdir exists only as long as something is in it. Programs do not
//! expect that: when the last entry goes, an empty object takes the folder's place.

use super::{
    Answer, Found, Reply, Volume,
    claims::Claim,
    failure::Failure,
    nodes::{self, Kind},
};
use crate::fuse::Errno;
use futures::{StreamExt, TryStreamExt};

/// `RENAME_NOREPLACE` of renameat2(2).
const NO_REPLACE: u32 = 1;
/// How many objects of a folder are copied or removed at the same time.
const PARALLEL: usize = 16;

impl Volume {
    pub(super) async fn mkdir(&self, parent: u64, name: &str) -> Reply {
        let (_claim, path) = self.claim_child(parent, name).await?;
        let failed = |failure: Failure| failure.report("mkdir", &path);
        if self.find(&path).await.map_err(failed)?.is_some() {
            return Err(Errno::EXIST);
        }
        match self.storage.put_empty(&nodes::prefix(&path), true).await {
            Ok(_) => {
                let entry = self.enter(&path, &Found::Folder);
                self.nodes.get(entry.node)?.set_marked();
                Ok(Answer::Entry(entry))
            }
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failed(failure)),
        }
    }

    /// The paths of names in folders, claimed alone: nothing else is under way there as long as it is held.
    async fn claim_alone<const N: usize>(
        &self,
        children: [(u64, &str); N],
    ) -> Result<(Claim<'_>, [String; N]), Errno> {
        let paths = || -> Result<[String; N], Errno> {
            let mut paths = [const { String::new() }; N];
            for (path, (folder, name)) in paths.iter_mut().zip(children) {
                *path = self.nodes.folder(folder)?.child(name);
            }
            Ok(paths)
        };
        loop {
            let now = paths()?;
            let claim = self
                .claims
                .alone(now.each_ref().map(String::as_str).as_slice())
                .await;
            // A folder above may have been renamed meanwhile.
            if paths()? == now {
                return Ok((claim, now));
            }
        }
    }

    pub(super) async fn unlink(&self, parent: u64, name: &str) -> Reply {
        let (_claim, [path]) = self.claim_alone([(parent, name)]).await?;
        self.remove_file(&path)
            .await
            .map_err(|failure| failure.report("unlink", &path))?;
        self.stay(nodes::parent(&path)).await;
        Ok(Answer::Done)
    }

    async fn remove_file(&self, path: &str) -> Result<(), Failure> {
        self.replacing(path, self.storage.delete(path)).await?;
        self.nodes.removed(path);
        Ok(())
    }

    /// Does what takes the file at a path away. Whoever has it open keeps its bytes; if it fails, the file is as before.
    async fn replacing<T>(
        &self,
        path: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(content) = self.nodes.at(path).and_then(|node| node.open_content()) else {
            return work.await;
        };
        content.unlink(&self.source(path)).await?;
        let outcome = work.await;
        if outcome.is_err() {
            content.relink();
        }
        outcome
    }

    pub(super) async fn rmdir(&self, parent: u64, name: &str) -> Reply {
        let (_claim, [path]) = self.claim_alone([(parent, name)]).await?;
        self.remove_folder(&path).await?;
        self.stay(nodes::parent(&path)).await;
        Ok(Answer::Done)
    }

    async fn remove_folder(&self, path: &str) -> Result<(), Errno> {
        let failed = |failure: Failure| failure.report("rmdir", path);
        let marker = nodes::prefix(path);
        // The marker itself, and one more that would be in the way.
        let page = self.storage.list(&marker, false, None, 2).await.map_err(failed)?;
        if page.objects.iter().any(|(key, _)| !key.is_empty()) {
            return Err(Errno::NOTEMPTY);
        }
        self.storage.delete(&marker).await.map_err(failed)?;
        self.nodes.removed(path);
        Ok(())
    }

    /// Something left the folder: if it was the last entry, the folder gets an object of its own, so that it stays.
    async fn stay(&self, folder: &str) {
        if folder.is_empty() || self.nodes.at(folder).is_some_and(|node| node.is_marked()) {
            return;
        }
        let marker = nodes::prefix(folder);
        let outcome = match self.storage.any_under(&marker).await {
            Ok(true) => return,
            Ok(false) => self.storage.put_empty(&marker, false).await.map(drop),
            Err(failure) => Err(failure),
        };
        // The entry is gone as asked; that its folder went too is worth a line in the log and no error.
        if let Err(failure) = outcome {
            failure.report("keep an empty folder", folder);
        }
    }

    pub(super) async fn rename(&self, from: (u64, &str), to: (u64, &str), flags: u32) -> Reply {
        // RENAME_EXCHANGE and RENAME_WHITEOUT cannot be had.
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::INVAL);
        }
        let (_claim, [from, to]) = self.claim_alone([from, to]).await?;
        if from == to {
            return Ok(Answer::Done);
        }
        let failed = |failure: Failure| failure.report("rename", &from);
        let (source, target) = tokio::join!(self.find(&from), self.find(&to));
        let (source, target) = (source.map_err(failed)?, target.map_err(failed)?);
        let kind = |found: &Found| match found {
            Found::File(_) => Kind::File,
            Found::Folder => Kind::Folder,
        };
        match (source.as_ref().map(kind), target.as_ref().map(kind)) {
            (None, _) => return Err(Errno::NOENT),
            (Some(_), Some(_)) if flags & NO_REPLACE != 0 => return Err(Errno::EXIST),
            (Some(Kind::File), Some(Kind::Folder)) => return Err(Errno::ISDIR),
            (Some(Kind::Folder), Some(Kind::File)) => return Err(Errno::NOTDIR),
            (Some(Kind::Folder), _) if to.starts_with(&nodes::prefix(&from)) => return Err(Errno::INVAL),
            (Some(Kind::Folder), Some(Kind::Folder)) => {
                self.remove_folder(&to).await?;
                self.rename_folder(&from, &to).await.map_err(failed)?;
            }
            (Some(Kind::Folder), None) => self.rename_folder(&from, &to).await.map_err(failed)?,
            (Some(Kind::File), _) => {
                self.replacing(&to, self.copy_file(&from, &to))
                    .await
                    .map_err(failed)?;
                self.move_nodes(&from, &to);
                self.storage.delete(&from).await.map_err(failed)?;
            }
        }
        self.stay(nodes::parent(&from)).await;
        Ok(Answer::Done)
    }

    /// What is open is read by its new name from now on. Call when that is there, and before the old one goes.
    fn move_nodes(&self, from: &str, to: &str) {
        self.nodes.removed(to);
        self.nodes.moved(from, to);
    }

    /// What is being written is uploaded first: the copy is made of what the storage node holds.
    async fn settle(&self, path: &str) -> Result<(), Failure> {
        if let Some(node) = self.nodes.at(path)
            && let Some(content) = node.open_content()
            && let Some(version) = content.upload(&self.source(path)).await?
        {
            node.tell(&version);
        }
        Ok(())
    }

    async fn copy_file(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.settle(from).await?;
        self.storage.copy(from, to).await.map(drop)
    }

    /// All is copied before anything is removed: a rename that fails leaves the old folder whole.
    async fn rename_folder(&self, from: &str, to: &str) -> Result<(), Failure> {
        for node in self.nodes.open_under(from) {
            self.settle(&node.path()).await?;
        }
        let move_nodes = || self.move_nodes(from, to);
        let (from, to) = (&nodes::prefix(from), &nodes::prefix(to));
        let keys = self.storage.all_under(from).await?;
        let copied = self
            .each(&keys, |key| async move {
                let (old, new) = (format!("{from}{key}"), format!("{to}{key}"));
                self.storage.copy(&old, &new).await.map(drop)
            })
            .await;
        if let Err(failure) = copied {
            // Half a copy is of no use to anybody.
            let undone = self.each(&keys, |key| async move {
                self.storage.delete(&format!("{to}{key}")).await
            });
            if let Err(failure) = undone.await {
                failure.report("remove the copies of a failed rename", to);
            }
            return Err(failure);
        }
        move_nodes();
        self.each(&keys, |key| async move {
            self.storage.delete(&format!("{from}{key}")).await
        })
        .await
    }

    async fn each<F, Fut>(&self, keys: &[String], work: F) -> Result<(), Failure>
    where
        F: Fn(String) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        futures::stream::iter(keys.to_vec())
            .map(|key| Ok(work(key)))
            .try_buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }
}
