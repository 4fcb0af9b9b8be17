"""Relations that the records of an asset stream name, as rows of CAASM_Relationships_CL: one for each other end of each kind.

Invariant: a record gives as many rows as it names other ends, none twice, in the order of the records; a record that has no identifier gives one row without
a key, so that it is rejected where the asset is. A relation's key is made of its two ends and its type alone.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import polars.selectors as cs

from transforms import values
from transforms.decode import RECORD

FROM: Final = ("FromName", "DvcHostname", "DvcFQDN", "DvcIpAddr", "SourceUpdatedAt")
"""Columns that a frame of assets has beside `_id`, the product's identifier of the asset, and EntityIsDeleted where the product also names what is gone."""

_NOTHING: Final = pl.lit(None, pl.String)
_NEVER: Final = pl.lit(None, pl.Datetime("us", "UTC"))

_GONE: Final = cs.by_name("EntityIsDeleted", require_all=False)


def starts(
    assets: pl.LazyFrame,
    *ends: str | pl.Expr,
    name: pl.Expr,
    host: pl.Expr = _NOTHING,
    fqdn: pl.Expr = _NOTHING,
    address: pl.Expr = _NOTHING,
    updated: pl.Expr = _NEVER,
    **more: pl.Expr,
) -> pl.LazyFrame:
    """Where relations start, for `related`: the columns of FROM, and as `ends` and `more` the fields that name other ends and the asset's `_id`.

    It is made here and now: in one plan polars (2.1, measured) takes twice the time, for each kind of relation goes through all of it.
    """
    given = assets.select(
        RECORD,
        *ends,
        FromName=name,
        DvcHostname=host,
        DvcFQDN=fqdn,
        DvcIpAddr=address,
        SourceUpdatedAt=updated,
        **more,
    )
    return given.collect().lazy()


def related(
    frame: pl.LazyFrame,
    relationship: str,
    to_type: str,
    *,
    said: pl.Expr,
    name: pl.Expr,
    identifier: pl.Expr | None = None,
    attributes: pl.Expr | None = None,
) -> pl.LazyFrame:
    """The relations of one kind: one for each row of `frame` that names another end, by the product's `identifier` or by `name`.

    A record must not name one end in two rows of the frame. `relationship` and `to_type` tell the kind from the others.
    `said`: the relation in the product's own words. `attributes`: a list of key=value.
    """
    given = frame.select(
        RECORD,
        "_id",
        *FROM,
        _GONE,
        RelationshipType=pl.lit(relationship),
        OriginalRelationshipType=said,
        ToType=pl.lit(to_type),
        ToName=name,
        _to=pl.lit(None, pl.String) if identifier is None else identifier,
        Attributes=pl.lit(None, pl.List(pl.String)) if attributes is None else attributes,
    )
    return given.filter(pl.coalesce("_to", "ToName").is_not_null() & pl.col("_id").is_not_null())


def each(frame: pl.LazyFrame, names: pl.Expr, kind: str = "") -> pl.LazyFrame:
    """The frame with a row for each name of a list, once, as `_end`; what has none has no row. `kind` stands before each name."""
    ends = names.list.eval(pl.lit(kind) + values.text(pl.element()))
    return frame.with_columns(_end=values.joined(ends)).explode("_end")


def rows(source: str, frame: pl.LazyFrame, kinds: list[pl.LazyFrame]) -> pl.LazyFrame:
    """The relations of all kinds (see `related`) of a frame of assets as rows of the table."""
    nameless = frame.filter(pl.col("_id").is_null()).select(RECORD)
    end = pl.coalesce("_to", "ToName")
    original = pl.concat_str("_id", "RelationshipType", "ToType", end, separator="|")
    keyed = pl.concat([*kinds, nameless], how="diagonal").with_columns(EntityOriginalId=original)
    return keyed.sort(RECORD, maintain_order=True).select(
        RECORD,
        "EntityOriginalId",
        *FROM,
        _GONE,
        "RelationshipType",
        "OriginalRelationshipType",
        "ToType",
        "ToName",
        "Attributes",
        RelationshipId=pl.concat_str(pl.lit(f"{source}:"), "EntityOriginalId"),
        FromId=pl.concat_str(pl.lit(f"{source}:"), "_id"),
        FromType=pl.lit("Asset"),
        ToId=pl.concat_str(pl.lit(f"{source}:"), "_to"),
    )
