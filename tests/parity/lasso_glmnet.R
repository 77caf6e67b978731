# Makes lasso_glmnet_solutions.csv from lasso_glmnet.csv, in the folder of both:
#     Rscript lasso_glmnet.R
# Prints how far the solutions of two thresholds are apart: glmnet's own stopping rule must not show.
suppressMessages(library(glmnet))
glmnet.control(fdev = 0, devmax = 1)

data <- read.csv("lasso_glmnet.csv")
X <- as.matrix(data[, 1:8])
# glmnet's ridge part of a Gaussian response counts in units of its standard deviation: one here.
centred <- data$gaussian - mean(data$gaussian)
responses <- list(gaussian = centred / sqrt(mean(centred^2)), poisson = data$poisson,
                  binomial = data$binomial, multinomial = data$multinomial)

rows_of <- function(family, fit, lambda) {
  beta <- coef(fit, s = lambda)
  if (family == "multinomial") t(sapply(beta, as.vector)) else t(as.vector(beta))
}

solve_one <- function(family, y, w, mixing, factor, grouped, standardize, lambda, threshold) {
  # glmnet follows a path; the last value is the one wanted.
  top <- max(1, lambda * 2)
  path <- exp(seq(log(top), log(lambda), length.out = 20))
  args <- list(X, y, family = family, weights = w, alpha = mixing, lambda = path,
               penalty.factor = factor, standardize = standardize, thresh = threshold, maxit = 1e8)
  if (family == "multinomial") args$type.multinomial <- if (grouped) "grouped" else "ungrouped"
  rows_of(family, do.call(glmnet, args), lambda)
}

cells <- list()
ones <- rep(1, nrow(X))
uneven <- c(1, 1, 2, 0, 1, 0.5, 1, 1)
for (family in names(responses)) {
  y <- responses[[family]]
  variants <- list(
    list(name = "lasso", mixing = 1, factor = rep(1, 8), w = ones, grouped = FALSE, standardize = TRUE),
    list(name = "elastic_net", mixing = 0.4, factor = rep(1, 8), w = ones, grouped = FALSE, standardize = TRUE),
    list(name = "uneven", mixing = 1, factor = uneven, w = ones, grouped = FALSE, standardize = TRUE),
    list(name = "weighted", mixing = 1, factor = rep(1, 8), w = data$weight, grouped = FALSE, standardize = TRUE),
    list(name = "raw_columns", mixing = 1, factor = rep(1, 8), w = ones, grouped = FALSE, standardize = FALSE))
  if (family == "multinomial")
    variants <- c(variants, list(list(name = "grouped", mixing = 1, factor = rep(1, 8), w = ones,
                                      grouped = TRUE, standardize = TRUE)))
  for (v in variants) for (lambda in c(0.12, 0.04, 0.01)) {
    # Factors are rescaled by glmnet to a mean of one: undone through lambda.
    scale <- mean(v$factor)
    found <- solve_one(family, y, v$w, v$mixing, v$factor, v$grouped, v$standardize, lambda * scale, 1e-22)
    again <- solve_one(family, y, v$w, v$mixing, v$factor, v$grouped, v$standardize, lambda * scale, 1e-20)
    cells[[length(cells) + 1]] <- data.frame(
      family = family, variant = v$name, lambda = lambda, class = seq_len(nrow(found)) - 1, signif(found, 12))
    cat(family, v$name, lambda, max(abs(found - again)), sum(found[, -1] != 0), "\n")
  }
}
table <- do.call(rbind, cells)
names(table)[-(1:4)] <- c("intercept", paste0("x", 1:8))
out <- file("lasso_glmnet_solutions.csv", "w")
writeLines(paste("# glmnet", packageVersion("glmnet"), "under", R.version.string, "by lasso_glmnet.R"), out)
write.csv(table, out, row.names = FALSE, quote = FALSE)
close(out)
