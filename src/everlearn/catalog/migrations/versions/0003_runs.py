"""runs"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=True),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("snapshot", sa.Integer(), nullable=True),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("version", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(["parent"], ["run.name"], name=op.f("fk_run_parent")),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("number"),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_kind"), ["kind"], unique=False)
        batch_op.create_index(batch_op.f("ix_run_parent"), ["parent"], unique=False)

    op.create_table(
        "metric",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["run.name"], name=op.f("fk_metric_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", "name", "step"),
    )


def downgrade() -> None:
    op.drop_table("metric")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_parent"))
        batch_op.drop_index(batch_op.f("ix_run_kind"))

    op.drop_table("run")
