//! The printers: each knows a format, and no result.

pub(super) mod html;
pub(super) mod markdown;
pub(super) mod text;

use comfy_table::{CellAlignment, TableStyle};

use super::document::Table;

fn ruled(table: &Table, style: TableStyle) -> String {
    let mut set = comfy_table::Table::new();
    set.load_style(style).set_header(&table.header);
    set.add_rows(&table.rows);
    for (index, column) in set.column_iter_mut().enumerate() {
        if !table.left.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    set.trim_fmt()
}
