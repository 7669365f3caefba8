"""scenes, proposals, leases and tokens; etags of objects"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_index("ix_sample_status_urgency_id", "sample", ["status", "urgency", "id"])
    op.add_column("answer", sa.Column("boxes", _JSON, nullable=True))
    op.add_column("sighting", sa.Column("etag", sa.Text(), nullable=True))
    op.add_column("sighting", sa.Column("after", sa.Text(), nullable=True))
    op.create_table(
        "scene",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("boxes", _JSON, nullable=False),
        sa.Column("about", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "proposal",
        sa.Column("sample_id", sa.String(length=32), nullable=False),
        sa.Column("boxes", _JSON, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["sample_id"], ["sample.id"], name=op.f("fk_proposal_sample_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sample_id"),
    )
    op.create_table(
        "lease",
        sa.Column("sample_id", sa.String(length=32), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["sample_id"], ["sample.id"], name=op.f("fk_lease_sample_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sample_id"),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("mark", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("mark"),
    )


def downgrade() -> None:
    op.drop_index("ix_sample_status_urgency_id", "sample")
    for name in ("token", "lease", "proposal", "scene"):
        op.drop_table(name)
    with op.batch_alter_table("answer", schema=None) as batch_op:
        batch_op.drop_column("boxes")
    with op.batch_alter_table("sighting", schema=None) as batch_op:
        batch_op.drop_column("after")
        batch_op.drop_column("etag")
