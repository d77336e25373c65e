// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All runs as one table: CSV and Parquet.

use std::io;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::plan::Weights;
use super::record::{Cell, Column, RunRecord, columns};

/// Rows of a row group.
const ROWS: usize = 1 << 16;

/// The runs as CSV, with a line of names; a number that is not there is empty.
///
/// # Errors
/// None in practice: memory takes every byte.
pub fn csv(runs: &[RunRecord], weights: &[Weights]) -> io::Result<Vec<u8>> {
    let columns = columns(weights);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|column| column.name.as_str()))?;
    for run in runs {
        let texts = columns.iter().map(|column| match column.get(run) {
            Cell::Text(text) => text,
            Cell::Integer(value) => value.to_string(),
            Cell::Real(value) => value.map(|value| value.to_string()).unwrap_or_default(),
            Cell::Flag(value) => value.to_string(),
        });
        writer.write_record(texts.collect::<Vec<_>>())?;
    }
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// The runs as Parquet, with the columns of the CSV: text, 64-bit integer, double (optional) and
/// boolean.
///
/// # Errors
/// What the encoder says; none in practice.
pub fn parquet(runs: &[RunRecord], weights: &[Weights]) -> Result<Vec<u8>, ParquetError> {
    let columns = columns(weights);
    // The type of a column is the same for all runs; without runs there is no table to type.
    let Some(first) = runs.first() else { return Ok(Vec::new()) };
    let fields = columns.iter().map(|column| field(&column.name, &column.get(first)));
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    let schema = Type::group_type_builder("runs").with_fields(fields).build()?;
    let properties = WriterProperties::builder().set_created_by("precopy".to_owned()).build();
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, Arc::new(schema), Arc::new(properties))?;
    for rows in runs.chunks(ROWS) {
        let mut group = file.next_row_group()?;
        for column in &columns {
            write(&mut group, column, rows)?;
        }
        group.close()?;
    }
    file.close()?;
    Ok(out)
}

fn field(name: &str, cell: &Cell) -> Result<Arc<Type>, ParquetError> {
    let (physical, converted, repetition) = match cell {
        Cell::Text(_) => (Physical::BYTE_ARRAY, ConvertedType::UTF8, Repetition::REQUIRED),
        Cell::Integer(_) => (Physical::INT64, ConvertedType::NONE, Repetition::REQUIRED),
        Cell::Real(_) => (Physical::DOUBLE, ConvertedType::NONE, Repetition::OPTIONAL),
        Cell::Flag(_) => (Physical::BOOLEAN, ConvertedType::NONE, Repetition::REQUIRED),
    };
    let field = Type::primitive_type_builder(name, physical)
        .with_converted_type(converted)
        .with_repetition(repetition);
    field.build().map(Arc::new)
}

fn write(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    column: &Column,
    runs: &[RunRecord],
) -> Result<(), ParquetError> {
    let (mut texts, mut whole, mut flags) = (Vec::new(), Vec::new(), Vec::new());
    let (mut reals, mut levels) = (Vec::new(), Vec::new());
    for run in runs {
        match column.get(run) {
            Cell::Text(text) => texts.push(ByteArray::from(text.into_bytes())),
            Cell::Integer(value) => whole.push(i64::try_from(value).unwrap_or(i64::MAX)),
            Cell::Flag(value) => flags.push(value),
            Cell::Real(value) => {
                reals.extend(value);
                levels.push(i16::from(value.is_some()));
            }
        }
    }
    let Some(mut writer) = group.next_column()? else {
        return Err(ParquetError::General("more columns than the schema has".to_owned()));
    };
    if !texts.is_empty() {
        writer.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
    } else if !whole.is_empty() {
        writer.typed::<Int64Type>().write_batch(&whole, None, None)?;
    } else if !flags.is_empty() {
        writer.typed::<BoolType>().write_batch(&flags, None, None)?;
    } else {
        writer.typed::<DoubleType>().write_batch(&reals, Some(&levels), None)?;
    }
    writer.close()
}
