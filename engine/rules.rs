//! Rules that the compiler keeps, each as a program that compiles and one that breaks the rule and
//! does not.

/// What every program here begins with.
macro_rules! prelude {
    () => {
        "
        # #![allow(dead_code)]
        # use orlop::*;
        # #[derive(Clone, Copy)] struct Put;
        # impl Computation for Put {
        #     const NAME: &'static str = \"put\";
        #     type Input = u64;
        #     type Output = u64;
        #     type Kind = External;
        # }
        # #[derive(Clone, Copy)] struct Other;
        # impl Computation for Other {
        #     const NAME: &'static str = \"other\";
        #     type Input = u64;
        #     type Output = u64;
        #     type Kind = Pure;
        # }
        # #[derive(Clone, Copy)] struct Remove;
        # impl Undo for Remove {
        #     const NAME: &'static str = \"remove\";
        #     type Argument = u64;
        #     type Step = Put;
        # }
        # struct Code;
        # impl HostFunction<Put> for Code {
        #     async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> { Ok(input) }
        # }
        "
    };
}

/// One rule: what all of the program has in common, what keeps it and what breaks it.
macro_rules! rule {
    ($name:ident, $before:literal, $kept:literal, $broken:literal, $after:literal) => {
        #[doc = concat!("```\n", prelude!(), $before, "\n", $kept, "\n", $after, "\n```\n")]
        #[doc = concat!("```compile_fail\n", prelude!(), $before, "\n", $broken, "\n", $after)]
        #[doc = "\n```"]
        struct $name;
    };
}

rule!(
    ExternalWorkNeedsAKey,
    "async fn submit(tenant: Tenant) -> Result<(), SubmitError> {",
    "tenant.submit(Put, 1_u64).key(Key::named(\"k\")).await?;",
    "tenant.submit(Put, 1_u64).await?;",
    "Ok(()) }"
);

rule!(
    AcceptedExternalWorkNeedsAKey,
    "async fn submit(tenant: Tenant) -> Result<(), SubmitError> {",
    "let _ticket = tenant.enqueue(Put, 1_u64).key(Key::named(\"k\")).await?;",
    "let _ticket = tenant.enqueue(Put, 1_u64).await?;",
    "Ok(()) }"
);

rule!(
    ExternalWorkIsNeverEphemeral,
    "async fn submit(tenant: Tenant) -> Result<(), SubmitError> {",
    "tenant.submit(Other, 1_u64).key(Key::named(\"k\")).ephemeral().await?;",
    "tenant.submit(Put, 1_u64).key(Key::named(\"k\")).ephemeral().await?;",
    "Ok(()) }"
);

rule!(
    ExternalWorkIsNoBatch,
    "async fn submit(tenant: Tenant) -> Result<(), SubmitError> {",
    "tenant.submit_batch(Other, [1_u64, 2]).await?;",
    "tenant.submit_batch(Put, [1_u64, 2]).await?;",
    "Ok(()) }"
);

rule!(
    NothingIsUndoneAfterThePivot,
    "async fn run(saga: SagaContext) -> Result<u64, SagaError> {",
    "let done = saga.step(\"put\", Put, 1_u64).undo(Remove, 1_u64).await?;
     let _saga = saga.pivot().await?;",
    "let saga = saga.pivot().await?;
     let done = saga.step(\"put\", Put, 1_u64).undo(Remove, 1_u64).await?;",
    "Ok(done) }"
);

rule!(
    TheContextBeforeThePivotIsGone,
    "async fn run(saga: SagaContext) -> Result<u64, SagaError> {",
    "let saga = saga.pivot().await?;
     let done = saga.step(\"put\", Put, 1_u64).await?;",
    "let _forward = saga.pivot().await?;
     let done = saga.step(\"put\", Put, 1_u64).await?;",
    "Ok(done) }"
);

rule!(
    AnUndoBelongsToItsStep,
    "async fn run(saga: SagaContext) -> Result<u64, SagaError> {",
    "let done = saga.step(\"one\", Put, 1_u64).undo(Remove, 1_u64).await?;",
    "let done = saga.step(\"one\", Other, 1_u64).undo(Remove, 1_u64).await?;",
    "Ok(done) }"
);

rule!(
    ExternalCodeCanBeReconciled,
    "impl Reconcile<Put> for Answers {
         fn late(&self) -> Late { Late::Fenced }
         async fn reconcile(&self, _: Attempt, _: u64) -> Reconciled<u64> { Reconciled::NotDone }
     }
     struct Answers;
     impl HostFunction<Put> for Answers {
         async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> { Ok(input) }
     }
     fn bind(builder: EngineBuilder) -> EngineBuilder {",
    "builder.external(Put, Answers)",
    "builder.external(Put, Code)",
    "}"
);

rule!(
    ExternalCodeIsNotBoundAsPure,
    "impl HostFunction<Other> for Code {
         async fn run(&self, _: Attempt, input: u64) -> Result<u64, Failure> { Ok(input) }
     }
     fn bind(builder: EngineBuilder) -> EngineBuilder {",
    "builder.pure(Other, Code)",
    "builder.pure(Put, Code)",
    "}"
);

rule!(
    ATenantIsNotMadeOfBytes,
    "async fn of(engine: Engine, id: TenantId) -> Result<Tenant, TenantError> {",
    "let _ = id; let tenant = engine.tenant(\"acme\").await?;",
    "let tenant = Tenant::from(id);",
    "Ok(tenant) }"
);

rule!(
    ATenantIsNotMadeOfParts,
    "async fn of(other: Tenant, engine: Engine) -> Result<Tenant, TenantError> {",
    "let _ = engine; let tenant = other.clone();",
    "let tenant = Tenant { core: engine, ..other };",
    "Ok(tenant) }"
);

rule!(
    ATenantCannotManage,
    "async fn resume(engine: Engine) -> Result<TenantManager, TenantError> {",
    "let manager = engine.manage(\"acme\").await?;",
    "let manager = TenantManager::from(engine.tenant(\"acme\").await?);",
    "Ok(manager) }"
);

rule!(
    ATenantIsNoOperator,
    "async fn look(engine: Engine) -> Result<Operator, TenantError> {",
    "let operator = engine.manage(\"acme\").await?.operator();",
    "let operator = engine.tenant(\"acme\").await?.operator();",
    "Ok(operator) }"
);

rule!(
    ATenantCannotLookUpAnother,
    "async fn other(engine: Engine, tenant: Tenant) -> Result<Tenant, TenantError> {",
    "let _ = tenant; let other = engine.tenant(\"other\").await?;",
    "let _ = engine; let other = tenant.tenant(\"other\").await?;",
    "Ok(other) }"
);
