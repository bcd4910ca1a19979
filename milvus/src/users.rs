//! Users of Milvus.

use crate::{
    Milvus, Result,
    client::done,
    proto::milvus::{
        CreateCredentialRequest, DeleteCredentialRequest, OperateUserRoleRequest, OperateUserRoleType,
        UpdateCredentialRequest,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};

impl Milvus {
    /// Makes a user.
    ///
    /// # Errors
    /// Refusals (there is one of that name), and what every call may meet.
    pub async fn create_user(&self, user: &str, password: &str) -> Result<()> {
        const CALL: &str = "CreateCredential";
        let request = CreateCredentialRequest {
            username: user.into(),
            password: STANDARD.encode(password),
        };
        let answer = self.service().create_credential(self.request(request)).await;
        done(CALL, answer)
    }

    /// Takes a user away; one that is not there is no error.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn delete_user(&self, user: &str) -> Result<()> {
        const CALL: &str = "DeleteCredential";
        let request = DeleteCredentialRequest {
            username: user.into(),
        };
        let answer = self.service().delete_credential(self.request(request)).await;
        match done(CALL, answer) {
            Err(error) if error.is_refusal() => Ok(()),
            other => other,
        }
    }

    /// Changes a user's password.
    ///
    /// # Errors
    /// Refusals (another old password), and what every call may meet.
    pub async fn set_password(&self, user: &str, old: &str, new: &str) -> Result<()> {
        const CALL: &str = "UpdateCredential";
        let request = UpdateCredentialRequest {
            username: user.into(),
            old_password: STANDARD.encode(old),
            new_password: STANDARD.encode(new),
        };
        let answer = self.service().update_credential(self.request(request)).await;
        done(CALL, answer)
    }

    /// Gives a user a role, as `admin`; again is no error.
    ///
    /// # Errors
    /// Refusals (no such user or role), and what every call may meet.
    pub async fn add_role(&self, user: &str, role: &str) -> Result<()> {
        const CALL: &str = "OperateUserRole";
        let request = OperateUserRoleRequest {
            username: user.into(),
            role_name: role.into(),
            r#type: OperateUserRoleType::AddUserToRole.into(),
        };
        let answer = self.service().operate_user_role(self.request(request)).await;
        done(CALL, answer)
    }
}
